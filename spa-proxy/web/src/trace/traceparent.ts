// The browser's root span of an order: W3C Trace Context level 1, so that one trace spans the
// click and everything that it caused.

export interface RootSpan {
  traceId: string;
  spanId: string;
  name: string;
  /** Microseconds since the epoch. */
  startUs: number;
}

export function startRootSpan(name: string): RootSpan {
  return { traceId: randomHex(16), spanId: randomHex(8), name, startUs: nowUs() };
}

export function childTraceparent(span: RootSpan): string {
  return `00-${span.traceId}-${span.spanId}-01`;
}

/** Wall clock in microseconds. `timeOrigin + now()` is finer than `Date.now()`. */
export function nowUs(): number {
  return Math.round((performance.timeOrigin + performance.now()) * 1_000);
}

function randomHex(bytes: number): string {
  const values = crypto.getRandomValues(new Uint8Array(bytes));
  // All zeroes is the one invalid id (§3.2.2.3); setting a bit keeps it random enough.
  values[0] = (values[0] ?? 0) | 1;
  return Array.from(values, (value) => value.toString(16).padStart(2, "0")).join("");
}
