// Confirmations as they arrive: one event stream for all pages, opened while signed in. The
// browser resumes it by itself after a short break; after a refused connection it is opened
// again here, slower each time, and the list is read so that nothing is missed in between.
import { createContext, useContext, useEffect, useMemo, useState, type ReactNode } from "react";
import { api, ApiError, type Notification } from "./api";
import { useSession } from "./session";

export type StreamState = "connecting" | "live" | "waiting";

interface NotificationContext {
  confirmed: ReadonlySet<string>;
  stream: StreamState;
}

const Context = createContext<NotificationContext>({ confirmed: new Set(), stream: "connecting" });
const FIRST_DELAY_MS = 1_000;
const MAX_DELAY_MS = 20_000;

export function NotificationProvider({ children }: { children: ReactNode }) {
  const { state, noticeFailure } = useSession();
  const signedIn = state.phase === "signed-in";
  const [confirmed, setConfirmed] = useState<ReadonlySet<string>>(new Set());
  const [stream, setStream] = useState<StreamState>("connecting");

  useEffect(() => {
    if (!signedIn) return;
    const add = (ids: string[]) => setConfirmed((old) => (ids.every((id) => old.has(id)) ? old : new Set([...old, ...ids])));
    return follow(add, setStream, noticeFailure);
  }, [signedIn, noticeFailure]);

  const value = useMemo(() => ({ confirmed, stream }), [confirmed, stream]);
  return <Context value={value}>{children}</Context>;
}

export function useNotifications(): NotificationContext {
  return useContext(Context);
}

/** Follows the stream until the returned function is called. */
function follow(add: (orderIds: string[]) => void, setStream: (state: StreamState) => void, failed: (error: unknown) => void): () => void {
  let source: EventSource | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let delay = FIRST_DELAY_MS;
  let stopped = false;

  const catchUp = () => {
    api.notifications().then(
      ({ notifications }) => !stopped && add(notifications.flatMap((one) => orderOf(one) ?? [])),
      (error: unknown) => {
        if (stopped) return;
        failed(error);
        // Signed out, or an account that gets no notifications: asking again changes nothing.
        if (error instanceof ApiError && (error.status === 401 || error.status === 403)) stop();
      },
    );
  };
  const open = () => {
    setStream("connecting");
    source = new EventSource("/api/notifications/stream");
    source.addEventListener("open", () => {
      delay = FIRST_DELAY_MS;
      setStream("live");
      catchUp();
    });
    source.addEventListener("order.confirmed", (event: MessageEvent<string>) => {
      const id = orderOf(parse(event.data));
      if (id !== undefined) add([id]);
    });
    source.addEventListener("error", () => {
      setStream("waiting");
      if (source?.readyState !== EventSource.CLOSED) return; // the browser tries again itself
      catchUp();
      timer = setTimeout(open, delay * (0.75 + Math.random() / 2));
      delay = Math.min(delay * 2, MAX_DELAY_MS);
    });
  };
  const stop = () => {
    stopped = true;
    clearTimeout(timer);
    source?.close();
  };

  open();
  return stop;
}

function parse(text: string): Notification | null {
  try {
    return JSON.parse(text) as Notification;
  } catch {
    return null;
  }
}

function orderOf(notification: Notification | null): string | undefined {
  return typeof notification?.order_id === "string" ? notification.order_id : undefined;
}
