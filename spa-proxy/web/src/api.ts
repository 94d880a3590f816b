// The only place that talks to spa-proxy. The browser holds a session cookie and nothing else:
// no token ever reaches this code.
import { childTraceparent, type RootSpan } from "./trace/traceparent";

export interface User {
  name: string;
  sub: string;
  roles: string[];
}

export interface Session {
  signed_in: boolean;
  user?: User;
}

export interface Item {
  sku: string;
  name: string;
  description: string;
  price_minor: number;
  currency: string;
  available: number;
}

export interface Wish {
  sku: string;
  quantity: number;
}

export interface Line extends Wish {
  name: string;
  /** Price of one piece. */
  unit_price_minor: number;
}

export interface Order {
  id: string;
  status: "pending" | "placed" | "declined" | "failed";
  lines: Line[];
  total_minor: number;
  currency: string;
  placed_at: string;
  trace_id?: string;
}

export interface OrderPage {
  orders: Order[];
  /** `before` of the next page; absent on the last one. */
  next_before?: string;
}

export interface Notification {
  sequence: number;
  kind: string;
  order_id: string;
}

export interface Span {
  id: string;
  parent: string | null;
  service: string;
  name: string;
  kind: string;
  start_us: number;
  duration_us: number;
  status: string;
  attributes: Record<string, string>;
}

export interface Trace {
  trace_id: string;
  spans: Span[];
}

/** RFC 9457 problem details, as every component of the platform answers. */
export interface Problem {
  type?: string;
  title?: string;
  detail?: string;
}

export class ApiError extends Error {
  constructor(
    /** HTTP status; 0 when no answer came at all. */
    readonly status: number,
    readonly problem: Problem,
    /** Seconds to wait, from Retry-After. */
    readonly retryAfter: number | null = null,
  ) {
    super(problem.title ?? `request failed with ${status}`);
  }
}

const TIMEOUT_MS = 20_000;

async function call<T>(method: string, path: string, init: { body?: unknown; headers?: Record<string, string> } = {}): Promise<T> {
  const headers: Record<string, string> = { accept: "application/json", ...init.headers };
  // spa-proxy refuses unsafe requests without it: a foreign page cannot send this header.
  if (method !== "GET") headers["x-ringwall-csrf"] = "1";
  const request: RequestInit = { method, headers, credentials: "same-origin", redirect: "error", signal: AbortSignal.timeout(TIMEOUT_MS) };
  if (init.body !== undefined) {
    headers["content-type"] = "application/json";
    request.body = JSON.stringify(init.body);
  }
  let response: Response;
  try {
    response = await fetch(path, request);
  } catch {
    throw new ApiError(0, { title: "No answer" });
  }
  if (!response.ok) throw await refusal(response);
  if (response.status === 204 || response.status === 202) return undefined as T;
  try {
    return (await response.json()) as T;
  } catch {
    throw new ApiError(502, { title: "The answer could not be read" });
  }
}

async function refusal(response: Response): Promise<ApiError> {
  const problem = (await response.json().catch(() => ({}))) as Problem;
  const wait = Number(response.headers.get("retry-after"));
  return new ApiError(response.status, problem, Number.isFinite(wait) && wait > 0 ? wait : null);
}

export const api = {
  session: () => call<Session>("GET", "/api/session"),

  catalogue: () => call<Item[]>("GET", "/api/catalogue"),

  placeOrder: (lines: Wish[], idempotencyKey: string, span: RootSpan) =>
    call<Order>("POST", "/api/orders", {
      body: { lines },
      headers: { "idempotency-key": idempotencyKey, traceparent: childTraceparent(span) },
    }),

  orders: (limit: number, before?: string) => {
    const query = new URLSearchParams({ limit: String(limit) });
    if (before !== undefined) query.set("before", before);
    return call<OrderPage>("GET", `/api/orders?${query}`);
  },

  order: (id: string) => call<Order>("GET", `/api/orders/${encodeURIComponent(id)}`),

  notifications: () => call<{ notifications: Notification[] }>("GET", "/api/notifications"),

  trace: (id: string) => call<Trace>("GET", `/api/traces/${encodeURIComponent(id)}`),

  reportSpan: (span: RootSpan, durationUs: number, ok: boolean) =>
    call<void>("POST", "/api/spans", {
      body: { trace_id: span.traceId, span_id: span.spanId, name: span.name, start_us: span.startUs, duration_us: durationUs, ok },
    }),

  /** Ends the session here and answers where the browser must go to end it at the authorization server too. */
  signOut: () => call<{ location: string }>("POST", "/auth/logout"),
};
