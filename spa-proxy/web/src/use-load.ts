// Loading something once, with its three states, and again on request.
import { useCallback, useEffect, useState } from "react";
import { useSession } from "./session";

export type Load<T> = { phase: "loading" } | { phase: "failed"; error: unknown } | { phase: "ready"; value: T };

/** `load` must keep its identity (useCallback): a new function loads anew. */
export function useLoad<T>(load: () => Promise<T>): [Load<T>, (quiet?: boolean) => void] {
  const { noticeFailure } = useSession();
  const [state, setState] = useState<Load<T>>({ phase: "loading" });
  const [round, setRound] = useState(0);

  useEffect(() => {
    let stale = false;
    load().then(
      (value) => !stale && setState({ phase: "ready", value }),
      (error: unknown) => {
        if (stale) return;
        noticeFailure(error);
        setState({ phase: "failed", error });
      },
    );
    return () => {
      stale = true;
    };
  }, [load, round, noticeFailure]);

  /** Quiet: what is shown stays until the new answer is there. */
  const reload = useCallback((quiet = false) => {
    if (!quiet) setState({ phase: "loading" });
    setRound((old) => old + 1);
  }, []);
  return [state, reload];
}
