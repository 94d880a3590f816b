import { useState } from "react";
import { Moon, Sun } from "./icons";

type Theme = "light" | "dark";

/** Switches between light and dark; until it is used, the system's preference applies. */
export function ThemeToggle() {
  const [theme, setTheme] = useState<Theme>(current);
  const next: Theme = theme === "dark" ? "light" : "dark";
  const toggle = () => {
    document.documentElement.dataset["theme"] = next;
    setTheme(next);
    try {
      localStorage.setItem("ringwall-theme", next);
    } catch {
      // Storage is switched off: the choice then lasts as long as the page.
    }
  };
  return (
    <button type="button" className="icon-button" onClick={toggle} aria-label={`Switch to the ${next} theme`} title={`Switch to the ${next} theme`}>
      {theme === "dark" ? <Sun /> : <Moon />}
    </button>
  );
}

function current(): Theme {
  const chosen = document.documentElement.dataset["theme"];
  if (chosen === "light" || chosen === "dark") return chosen;
  return window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}
