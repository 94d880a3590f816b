// The few icons of the shop, drawn on one 20-pixel grid. They are decoration: text beside them
// carries the meaning.
import type { ReactNode } from "react";

function Icon({ children }: { children: ReactNode }) {
  return (
    <svg className="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false" fill="none" stroke="currentColor" strokeWidth="1.6" strokeLinecap="round" strokeLinejoin="round">
      {children}
    </svg>
  );
}

export const Sun = () => (
  <Icon>
    <circle cx="10" cy="10" r="3.4" />
    <path d="M10 1.8v2M10 16.2v2M1.8 10h2M16.2 10h2M4.2 4.2l1.4 1.4M14.4 14.4l1.4 1.4M4.2 15.8l1.4-1.4M14.4 5.6l1.4-1.4" />
  </Icon>
);
export const Moon = () => (
  <Icon>
    <path d="M16.5 12.2A7 7 0 0 1 7.8 3.5a7 7 0 1 0 8.7 8.7Z" />
  </Icon>
);
export const Basket = () => (
  <Icon>
    <path d="M3 7.5h14l-1.4 8.2a1.5 1.5 0 0 1-1.5 1.3H5.9a1.5 1.5 0 0 1-1.5-1.3L3 7.5ZM6.5 7.5 9 2.8M13.5 7.5 11 2.8" />
  </Icon>
);
export const Check = () => (
  <Icon>
    <path d="m4 10.5 4 4 8-9" />
  </Icon>
);
export const Clock = () => (
  <Icon>
    <circle cx="10" cy="10" r="7.2" />
    <path d="M10 5.8V10l2.8 1.8" />
  </Icon>
);
export const Cross = () => (
  <Icon>
    <path d="m5 5 10 10M15 5 5 15" />
  </Icon>
);
export const Alert = () => (
  <Icon>
    <path d="M10 2.8 18 16.6H2L10 2.8ZM10 8v4M10 14.4v.1" />
  </Icon>
);
export const Shield = () => (
  <Icon>
    <path d="M10 2 3.8 4.4v4.7c0 4 2.6 7.2 6.2 8.9 3.6-1.7 6.2-4.9 6.2-8.9V4.4L10 2Z" />
    <path d="m7.2 9.8 2 2 3.6-4" />
  </Icon>
);
export const Arrow = () => (
  <Icon>
    <path d="M4 10h12M11 5l5 5-5 5" />
  </Icon>
);
export const Plus = () => (
  <Icon>
    <path d="M10 4v12M4 10h12" />
  </Icon>
);
export const Minus = () => (
  <Icon>
    <path d="M4 10h12" />
  </Icon>
);
