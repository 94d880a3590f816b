// @ts-nocheck: types of Node are not among the dependencies; esbuild bundles this file as it is.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ApiError, type Span } from "../src/api";
import { parseBasket, withQuantity } from "../src/basket";
import { explain, isFinal } from "../src/errors";
import { duration, shortId } from "../src/format";
import { match } from "../src/router";
import { waterfall } from "../src/trace/hops";
import { childTraceparent, startRootSpan } from "../src/trace/traceparent";

test("the router knows its pages and nothing else", () => {
  assert.deepEqual(match("/"), { page: "home" });
  assert.deepEqual(match("/orders/"), { page: "orders" });
  assert.deepEqual(match("/orders/a-1"), { page: "order", id: "a-1" });
  assert.deepEqual(match("/what-happened"), { page: "happened", traceId: null });
  assert.deepEqual(match("/orders/%E0%A4%A"), { page: "order", id: "%E0%A4%A" });
  for (const path of ["/nope", "/orders/a/b", "/api/orders"]) assert.equal(match(path).page, "missing");
});

test("the basket keeps the limits of the orders service", () => {
  let basket = {};
  for (let n = 0; n < 30; n += 1) basket = withQuantity(basket, `sku-${n}`, 1);
  assert.equal(Object.keys(basket).length, 20);
  assert.equal(withQuantity(basket, "sku-0", 500)["sku-0"], 99);
  assert.equal("sku-0" in withQuantity(basket, "sku-0", 0), false);
  for (const text of ["", "null", "[]", "{", '{"a":"1"}', '{"a":-1}']) assert.deepEqual(parseBasket(text), {}, text);
  assert.deepEqual(parseBasket('{"a":2}'), { a: 2 });
});

test("a traceparent is what W3C Trace Context says", () => {
  const span = startRootSpan("Place order");
  assert.match(childTraceparent(span), /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01$/);
  assert.ok(Math.abs(span.startUs / 1_000 - Date.now()) < 5_000);
});

test("every failure is explained, and only clear answers end an attempt", () => {
  assert.equal(explain(new ApiError(0, {})).title, "No connection");
  assert.equal(explain(new ApiError(401, {})).action, "sign-in");
  assert.match(explain(new ApiError(403, {})).text, /may not place orders/);
  assert.equal(explain(new ApiError(409, { type: "urn:ringwall:problem:out-of-stock" })).title, "Out of stock");
  assert.equal(explain(new ApiError(429, {}, 7)).waitSeconds, 7);
  assert.equal(explain(new Error("x")).action, "retry");
  for (const status of [0, 401, 429, 500, 502, 503, 504]) assert.equal(isFinal(new ApiError(status, {})), false);
  for (const status of [400, 402, 403, 409]) assert.equal(isFinal(new ApiError(status, {})), true);
  assert.equal(isFinal(new ApiError(503, { type: "urn:ringwall:problem:payment-unresolved" })), false);
  assert.equal(isFinal(new ApiError(503, { type: "urn:ringwall:problem:inventory-unavailable" })), true);
});

test("durations and ids are short", () => {
  assert.deepEqual([850, 1_234, 12_345, 1_200_000].map(duration), ["850 µs", "1.23 ms", "12.3 ms", "1.20 s"]);
  assert.equal(shortId("0190c5a2-7b1e-7c3a-9d70-1a2b3c4d5e6f"), "3C4D5E6F");
});

let last = 0;
function span(service: string, kind: string, parent: Span | null, start: number, attributes = {}): Span {
  last += 1;
  return { id: String(last), parent: parent?.id ?? null, service, name: "step", kind, start_us: start, duration_us: 10, status: "unset", attributes };
}

test("spans become hops: callers fold into who answered", () => {
  const browser = span("browser", "internal", null, 1_000);
  const edge = span("gateway", "server", browser, 1_001, { "http.route": "/api" });
  const call = span("gateway", "client", edge, 1_002, { "peer.service": "spa-proxy" });
  const bff = span("spa-proxy", "server", call, 1_003);
  const api = span("gateway", "server", bff, 1_004);
  const orders = span("orders", "server", api, 1_005);
  const query = span("orders", "client", orders, 1_006, { "db.system.name": "postgresql" });
  const silent = span("orders", "client", orders, 1_007, { "peer.service": "inventory" });
  const event = span("orders", "producer", orders, 1_008);
  const heard = span("notifications", "consumer", event, 1_020);
  const { hops, totalUs } = waterfall([heard, event, silent, query, orders, api, bff, call, edge, browser]);
  assert.deepEqual(
    hops.map((hop) => [hop.service, hop.depth]),
    [["browser", 0], ["gateway", 1], ["spa-proxy", 2], ["gateway", 3], ["orders", 4], ["postgres", 5], ["inventory", 5], ["broker", 5], ["notifications", 6]],
  );
  assert.deepEqual([hops[1].check.ring, hops[3].check.ring], ["TLS and dispatch", "Token, policy, limit"]);
  assert.equal(totalUs, 30);
});

test("proxies belong to the hop that they guard", () => {
  const api = span("gateway", "server", null, 1_000);
  const into = span("orders", "server", api, 1_001, { "ringwall.proxy": "inbound", "ringwall.policy.decision": "allow", "ringwall.policy.reason": "customers" });
  const orders = span("orders", "server", into, 1_002);
  const call = span("orders", "client", orders, 1_003, { "peer.service": "inventory" });
  const out = span("orders", "client", call, 1_004, { "ringwall.proxy": "outbound", "server.address": "inventory", "ringwall.policy.decision": "allow" });
  const denied = span("inventory", "server", out, 1_005, { "ringwall.proxy": "inbound", "ringwall.policy.decision": "deny", "ringwall.policy.reason": "no policy", "ringwall.refusal": "policy-denied" });
  const stopped = span("orders", "client", orders, 1_020, { "peer.service": "payments" });
  const within = span("orders", "client", stopped, 1_021, { "ringwall.proxy": "outbound", "server.address": "payments", "ringwall.policy.decision": "deny", "ringwall.policy.reason": "no edge", "ringwall.refusal": "edge-not-declared" });
  const { hops } = waterfall([api, into, orders, call, out, denied, stopped, within]);
  assert.deepEqual(
    hops.map((hop) => [hop.service, hop.depth, hop.guards.map((guard) => [guard.service, guard.side, guard.allowed])]),
    [
      ["gateway", 0, []],
      ["orders", 1, [["orders", "in", true]]],
      ["inventory", 2, [["orders", "out", true], ["inventory", "in", false]]],
      ["payments", 2, [["orders", "out", false]]],
    ],
  );
  assert.equal(hops[1].guards[0].reason, "customers");
  assert.deepEqual([hops[1].check.ring, hops[2].check.ring, hops[3].check.ring], ["mTLS and user context", "Refused by policy", "Refused by policy"]);
});

test("a broken trace still draws", () => {
  const orphan = { ...span("orders", "server", null, 5), parent: "gone" };
  const own = span("orders", "server", null, 6);
  assert.equal(waterfall([orphan, { ...own, parent: own.id }]).hops.length, 2);
  assert.equal(waterfall([]).hops.length, 0);
});
