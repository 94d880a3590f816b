// What each hop verified before it did its part. These texts explain the platform's rings; they
// are fixed words, chosen by service and by what was called.
import type { Span } from "../api";
import type { Guard } from "./hops";

export interface Check {
  ring: string;
  text: string;
}

const CHECKS: Record<string, Check> = {
  browser: { ring: "Session cookie", text: "The page holds no token: only an HttpOnly __Host- cookie, and a header that no foreign page can send." },
  "gateway/app": { ring: "TLS and dispatch", text: "The only public listener. It ended TLS, matched the host name, and removed every identity header that a client might forge." },
  "gateway/api": { ring: "Token, policy, limit", text: "Verified the access token, asked the Cedar policy, counted the request against the limit, and signed a user-context token for exactly one service." },
  gateway: { ring: "Edge", text: "Published the keys with which the services check its user-context tokens." },
  "spa-proxy": { ring: "Session, token check", text: "Found the session, checked Origin and the CSRF header, and asked the authorization server whether the token still holds." },
  orders: { ring: "mTLS and user context", text: "Accepted the connection only from the gateway's identity, and the user only through a context token addressed to orders." },
  inventory: { ring: "API key", text: "Checked an API key that works from one workload identity only: stolen, it opens nothing." },
  tokenizer: { ring: "Source token", text: "Asked whether the user's token still holds, then issued a token for one use within 30 seconds, bound to caller, path and body." },
  "tokenizer/redeem": { ring: "Single use", text: "Consumed the source token before it answered: a second redemption fails, even after a crash." },
  "authz-server/introspect": { ring: "Introspection", text: "Knew the caller by its certificate, and said whether the token is still valid." },
  "authz-server/token": { ring: "Token exchange", text: "Swapped the user's token for one that only payments accepts, with the chain of who acts for whom." },
  "authz-server": { ring: "Authorization server", text: "Published its signing keys; each key allows one algorithm only." },
  payments: { ring: "Three proofs", text: "Wanted an API key, an access token for payments and an unused source token together. Any one missing: refused." },
  postgres: { ring: "Certificate + SCRAM", text: "Verified a short-lived client certificate and a SCRAM password, both, before the first query." },
  broker: { ring: "Signed event", text: "Took the event durably, signed by orders, with user and trace inside the signature." },
  notifications: { ring: "Signature, once only", text: "Verified who signed the event, dropped duplicates, and told only the person whose order it is." },
};

const UNKNOWN: Check = { ring: "mTLS", text: "Accepted the connection only from identities that it declares." };

/** The words for a call that a proxy did not let through. */
export function refusedBy(guard: Guard): Check {
  const side = guard.side === "out" ? "Its caller's proxy did not let the call out" : "Its proxy did not let the call in";
  return { ring: "Refused by policy", text: `${side}: ${guard.reason || "nothing permits it"}. The service never saw it.` };
}

/** What a proxy did for a call that it let through. */
export function guardText(guard: Guard): string {
  if (!guard.allowed) return `refused: ${guard.reason || "nothing permits it"}`;
  if (guard.side === "out") return "let it out over mTLS: the mesh's policy has this edge";
  return guard.reason === "" ? "let it in over mTLS" : `let it in over mTLS, by ${guard.reason}`;
}

/** The check that belongs to a hop; `callers` are the services above it, outermost first. */
export function checkFor(service: string, span: Span, callers: readonly string[]): Check {
  const called = span.attributes["http.route"] ?? span.attributes["url.path"] ?? span.name;
  return CHECKS[variant(service, called, callers)] ?? CHECKS[service] ?? UNKNOWN;
}

function variant(service: string, called: string, callers: readonly string[]): string {
  if (service === "gateway") {
    if (called.includes("jwks")) return "gateway";
    return callers.includes("spa-proxy") ? "gateway/api" : "gateway/app";
  }
  if (service === "tokenizer" && called.includes("redeem")) return "tokenizer/redeem";
  if (service === "authz-server" && called.includes("introspect")) return "authz-server/introspect";
  if (service === "authz-server" && called.includes("/token")) return "authz-server/token";
  return service;
}
