/** The mark: two open rings around a core. */
export function Logo() {
  return (
    <svg className="logo" viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <rect width="32" height="32" rx="8" className="logo-ground" />
      <g fill="none" className="logo-rings" strokeWidth="2.4" strokeLinecap="round">
        <path d="M16 5.5a10.5 10.5 0 1 1-9.1 5.25" />
        <path d="M16 10a6 6 0 1 1-5.2 9" opacity=".8" />
      </g>
      <circle cx="16" cy="16" r="2.2" className="logo-core" />
    </svg>
  );
}
