import { useEffect, useState, type ReactNode } from "react";
import { explain } from "../errors";
import { signIn } from "../session";
import { Alert, Check } from "./icons";

type Tone = "error" | "warning" | "success" | "info";

export function Notice({ tone, title, children }: { tone: Tone; title: string; children?: ReactNode }) {
  const urgent = tone === "error" || tone === "warning";
  return (
    <div className={`notice notice-${tone}`} role={urgent ? "alert" : "status"} data-testid={`notice-${tone}`}>
      {urgent ? <Alert /> : <Check />}
      <div className="notice-body">
        <p className="notice-title">{title}</p>
        {children}
      </div>
    </div>
  );
}

/** A failure in plain words, with the one thing that helps. */
export function ErrorNotice({ error, onRetry }: { error: unknown; onRetry?: () => void }) {
  const { tone, title, text, action, waitSeconds } = explain(error);
  const left = useCountdown(waitSeconds, error);
  return (
    <Notice tone={tone} title={title}>
      <p>{text}</p>
      {action === "retry" && onRetry && (
        <button type="button" className="button button-small" onClick={onRetry} disabled={left > 0}>
          {left > 0 ? `Try again in ${left} s` : "Try again"}
        </button>
      )}
      {action === "sign-in" && (
        <button type="button" className="button button-small" onClick={signIn}>
          Sign in again
        </button>
      )}
    </Notice>
  );
}

/** Seconds left, starting anew with every `cause`. */
function useCountdown(seconds: number | null, cause: unknown): number {
  const [left, setLeft] = useState(seconds ?? 0);
  useEffect(() => {
    setLeft(seconds ?? 0);
    if (seconds === null) return;
    const end = Date.now() + seconds * 1_000;
    const timer = setInterval(() => {
      const rest = Math.max(0, Math.ceil((end - Date.now()) / 1_000));
      setLeft(rest);
      if (rest === 0) clearInterval(timer);
    }, 250);
    return () => clearInterval(timer);
  }, [seconds, cause]);
  return left;
}
