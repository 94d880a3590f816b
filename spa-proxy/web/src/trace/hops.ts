// From the spans of a trace to the hops that a person can follow. Pure functions.
import type { Span } from "../api";
import { checkFor, refusedBy, type Check } from "./checks";

export interface Hop {
  id: string;
  depth: number;
  service: string;
  title: string;
  check: Check;
  /** The proxies on the way here, in the order of the call. */
  guards: Guard[];
  /** Microseconds after the start of the trace. */
  offsetUs: number;
  durationUs: number;
  failed: boolean;
}

/** A service proxy that let a call out of its service, or into it. */
export interface Guard {
  id: string;
  service: string;
  side: "out" | "in";
  /** What the proxy decided by: an edge, or the names of policies. */
  reason: string;
  allowed: boolean;
  durationUs: number;
}

export interface Waterfall {
  hops: Hop[];
  totalUs: number;
}

/** Where a span brings the order: a server's or consumer's span is a hop; a client's span is one
 *  only where nobody answers with a span of their own (database, broker). The spans of proxies belong
 *  to the hop that they lead to; a call that ends at a proxy is a hop of its own. */
export function waterfall(spans: Span[]): Waterfall {
  const tree = index(spans);
  const hops: Hop[] = [];
  const origin = Math.min(...spans.map((span) => span.start_us));
  const visit = (span: Span, depth: number, callers: readonly string[], before: readonly Guard[]) => {
    const below = tree.children.get(span.id) ?? [];
    const guard = guardOf(span);
    const guards = guard === null ? before : [...before, guard];
    const ends = guard !== null && below.length === 0;
    const place = ends || (guard === null && isHop(span, tree)) ? placeOf(span) : null;
    if (place !== null) {
      hops.push({
        id: span.id,
        depth,
        service: place,
        title: titleOf(span),
        check: guard !== null && !guard.allowed ? refusedBy(guard) : checkFor(place, span, callers),
        guards: [...guards],
        offsetUs: span.start_us - origin,
        durationUs: span.duration_us,
        failed: span.status === "error",
      });
    }
    const above = place === null ? callers : [...callers, place];
    for (const child of below) visit(child, place === null ? depth : depth + 1, above, place === null ? guards : []);
  };
  for (const root of tree.roots) visit(root, 0, [], []);
  const end = Math.max(...hops.map((hop) => hop.offsetUs + hop.durationUs), 1);
  return { hops, totalUs: end };
}

interface Tree {
  roots: Span[];
  children: Map<string, Span[]>;
}

function index(spans: Span[]): Tree {
  const known = new Map(spans.map((span) => [span.id, span]));
  const children = new Map<string, Span[]>();
  const roots: Span[] = [];
  for (const span of [...known.values()].sort((a, b) => a.start_us - b.start_us)) {
    const parent = span.parent !== null && span.parent !== span.id && known.has(span.parent) ? span.parent : null;
    if (parent === null) roots.push(span);
    else children.set(parent, [...(children.get(parent) ?? []), span]);
  }
  // The browser's click comes first, whatever the clocks of the machines say.
  roots.sort((a, b) => Number(b.service === "browser") - Number(a.service === "browser"));
  return { roots, children };
}

function isHop(span: Span, tree: Tree): boolean {
  if (span.service === "browser" || span.kind === "server" || span.kind === "consumer") return true;
  if (span.kind === "producer" || isDatabase(span)) return true;
  const answered = (tree.children.get(span.id) ?? []).some((child) => child.kind === "server" || guardOf(child) !== null);
  return span.kind === "client" && !answered && peerOf(span) !== null;
}

function placeOf(span: Span): string {
  if (isDatabase(span)) return "postgres";
  if (span.kind === "producer") return "broker";
  if (span.kind === "client") return peerOf(span) ?? span.service;
  return span.service;
}

function guardOf(span: Span): Guard | null {
  const proxy = span.attributes["ringwall.proxy"];
  if (proxy === undefined) return null;
  const refusal = span.attributes["ringwall.refusal"];
  return {
    id: span.id,
    service: span.service,
    side: proxy === "outbound" ? "out" : "in",
    reason: span.attributes["ringwall.policy.reason"] ?? refusal ?? "",
    allowed: refusal === undefined && span.attributes["ringwall.policy.decision"] !== "deny",
    durationUs: span.duration_us,
  };
}

function isDatabase(span: Span): boolean {
  return span.kind === "client" && ("db.system.name" in span.attributes || "db.system" in span.attributes);
}

function peerOf(span: Span): string | null {
  const { attributes } = span;
  return attributes["peer"] ?? attributes["peer.service"] ?? (guardOf(span) === null ? null : (attributes["server.address"] ?? null));
}

function titleOf(span: Span): string {
  const route = span.attributes["http.route"];
  const method = span.attributes["http.request.method"];
  if (route !== undefined && method !== undefined) return `${method} ${route}`;
  return span.name;
}
