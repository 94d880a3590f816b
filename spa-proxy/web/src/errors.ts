// What went wrong, in words for the person in front of the screen, with what they can do next.
import { ApiError } from "./api";

export interface Explanation {
  tone: "error" | "warning";
  title: string;
  text: string;
  action: "retry" | "sign-in" | "none";
  /** Seconds until a retry makes sense. */
  waitSeconds: number | null;
}

export function explain(error: unknown): Explanation {
  if (!(error instanceof ApiError)) {
    return problem("Something went wrong", "Please try again. If it keeps happening, load the page again.");
  }
  switch (error.status) {
    case 0:
      return problem("No connection", "The shop did not answer. Check your network and try again.");
    case 401:
      return { ...warning("You are signed out", "Your session has ended. Sign in again to go on."), action: "sign-in" };
    case 402:
      return { ...warning("Payment declined", "The payment was not accepted. Nothing was charged."), action: "none" };
    case 403:
      return { ...warning("Not allowed", forbidden(error)), action: "none" };
    case 404:
      return { ...warning("Not found", "It does not exist, or it belongs to another account."), action: "none" };
    case 409:
      return conflict(error);
    case 429: {
      const wait = error.retryAfter ?? 5;
      return { ...warning("Too many requests", "That was a little fast. Please wait a moment."), waitSeconds: wait };
    }
    case 400:
    case 422:
      return { ...warning("That order cannot be placed", error.problem.detail ?? "Please check the quantities."), action: "none" };
    case 503:
    case 502:
    case 504:
      return { ...problem("Not available right now", "A part of the shop is not answering. Nothing was charged."), waitSeconds: error.retryAfter };
    default:
      return problem(error.problem.title ?? "Something went wrong", "Please try again in a moment.");
  }
}

/** Whether the attempt is over for good, so that trying again must be a new attempt. After a lost
 *  answer, a limit or an unclear outcome the same attempt goes on, and cannot order twice. */
export function isFinal(error: unknown): boolean {
  if (!(error instanceof ApiError)) return false;
  if (/:(inventory|payments)-unavailable$/.test(error.problem.type ?? "")) return true;
  return [400, 402, 403, 404, 409, 422].includes(error.status);
}

function forbidden(error: ApiError): string {
  if (error.problem.type?.endsWith("csrf-refused")) return "The request did not come from this page. Load the page again.";
  return "Your account may not place orders. Ask an administrator for the customer role.";
}

function conflict(error: ApiError): Explanation {
  if (error.problem.type?.includes("out-of-stock")) {
    return { ...warning("Out of stock", error.problem.detail ?? "Somebody was faster. Lower the quantity or choose another item."), action: "none" };
  }
  if (error.problem.type?.includes("price-changed")) return warning("A price has changed", "Please look at your basket again before you order.");
  return { ...warning(error.problem.title ?? "The order was not placed", error.problem.detail ?? "Please try again."), action: "retry" };
}

function problem(title: string, text: string): Explanation {
  return { tone: "error", title, text, action: "retry", waitSeconds: null };
}

function warning(title: string, text: string): Explanation {
  return { tone: "warning", title, text, action: "retry", waitSeconds: null };
}
