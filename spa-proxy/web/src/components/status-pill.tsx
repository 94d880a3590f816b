import type { ReactElement } from "react";
import type { Order } from "../api";
import { Check, Clock, Cross } from "./icons";

export type Progress = "pending" | "placed" | "confirmed" | "declined" | "failed";

const LOOK: Record<Progress, { label: string; icon: ReactElement }> = {
  pending: { label: "In progress", icon: <Clock /> },
  placed: { label: "Placed", icon: <Clock /> },
  confirmed: { label: "Confirmed", icon: <Check /> },
  declined: { label: "Declined", icon: <Cross /> },
  failed: { label: "Not placed", icon: <Cross /> },
};

/** What a person sees: the order's own state, and whether its confirmation has arrived. */
export function progress(status: Order["status"], confirmed: boolean): Progress {
  return confirmed && status !== "declined" && status !== "failed" ? "confirmed" : status;
}

export function StatusPill({ state }: { state: Progress }) {
  const { label, icon } = LOOK[state];
  return (
    <span className={`pill pill-${state}`} data-testid="order-status">
      {icon}
      {label}
    </span>
  );
}
