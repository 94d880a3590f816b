// Runs before the first paint: applies the colour theme that this visitor chose earlier.
const theme = ((): string | null => {
  try {
    return localStorage.getItem("ringwall-theme");
  } catch {
    return null; // storage switched off: the system's preference applies
  }
})();
if (theme === "light" || theme === "dark") document.documentElement.dataset["theme"] = theme;
