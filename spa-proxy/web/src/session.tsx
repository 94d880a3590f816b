// Who is signed in. The answer comes from spa-proxy; the page itself keeps nothing about it.
import { createContext, useCallback, useContext, useEffect, useMemo, useState, type ReactNode } from "react";
import { api, ApiError, type User } from "./api";

export type SessionState =
  | { phase: "loading" }
  | { phase: "signed-out"; reason: "none" | "ended" }
  | { phase: "signed-in"; user: User }
  | { phase: "failed"; error: unknown };

interface SessionContext {
  state: SessionState;
  reload: () => void;
  /** Call with any failure of a call: a 401 means that the session is over. */
  noticeFailure: (error: unknown) => void;
}

const Context = createContext<SessionContext | null>(null);

export function SessionProvider({ children }: { children: ReactNode }) {
  const [state, setState] = useState<SessionState>({ phase: "loading" });

  const reload = useCallback(() => {
    setState({ phase: "loading" });
    api.session().then(
      (session) => setState(session.signed_in && session.user ? { phase: "signed-in", user: session.user } : { phase: "signed-out", reason: "none" }),
      (error: unknown) => setState({ phase: "failed", error }),
    );
  }, []);

  useEffect(reload, [reload]);

  // A page that comes back from the browser's cache may show a session that has ended since.
  useEffect(() => {
    const restored = (event: PageTransitionEvent) => event.persisted && reload();
    window.addEventListener("pageshow", restored);
    return () => window.removeEventListener("pageshow", restored);
  }, [reload]);

  const noticeFailure = useCallback((error: unknown) => {
    if (error instanceof ApiError && error.status === 401) setState({ phase: "signed-out", reason: "ended" });
  }, []);

  const value = useMemo(() => ({ state, reload, noticeFailure }), [state, reload, noticeFailure]);
  return <Context value={value}>{children}</Context>;
}

export function useSession(): SessionContext {
  const value = useContext(Context);
  if (value === null) throw new Error("useSession is used outside SessionProvider");
  return value;
}

/** Leaves for the authorization server; comes back to the page that the visitor is on. */
export function signIn(): void {
  const here = window.location.pathname;
  window.location.assign(`/auth/login?return_to=${encodeURIComponent(here)}`);
}

export async function signOut(): Promise<void> {
  const { location } = await api.signOut();
  window.location.assign(location);
}
