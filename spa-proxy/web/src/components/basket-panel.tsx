import { useRef, useState } from "react";
import { api, type Item, type Order } from "../api";
import { useBasket } from "../basket";
import { isFinal } from "../errors";
import { money, plural } from "../format";
import { useSession } from "../session";
import { nowUs, startRootSpan } from "../trace/traceparent";
import { Basket as BasketIcon } from "./icons";
import { ErrorNotice } from "./notice";
import { Quantity } from "./quantity";

interface BasketLine {
  item: Item;
  quantity: number;
}

export function BasketPanel({ items, onPlaced, onRefused }: { items: Item[]; onPlaced: (order: Order) => void; onRefused: () => void }) {
  const { basket, set } = useBasket();
  const lines = items.flatMap((item) => {
    const quantity = basket[item.sku] ?? 0;
    return quantity > 0 ? [{ item, quantity }] : [];
  });
  return (
    <section className="basket" aria-labelledby="basket-title" id="basket">
      <h2 id="basket-title">
        <BasketIcon /> Basket
      </h2>
      {lines.length === 0 ? (
        <p className="basket-empty">Nothing here yet. Add something from the catalogue.</p>
      ) : (
        <>
          <ul className="basket-lines">
            {lines.map(({ item, quantity }) => (
              <li key={item.sku}>
                <span className="basket-name">{item.name}</span>
                <span className="basket-price">{money(item.price_minor * quantity, item.currency)}</span>
                <Quantity name={item.name} value={quantity} max={item.available} onChange={(next) => set(item.sku, next)} />
              </li>
            ))}
          </ul>
          <Checkout lines={lines} onPlaced={onPlaced} onRefused={onRefused} />
        </>
      )}
    </section>
  );
}

function Checkout({ lines, onPlaced, onRefused }: { lines: BasketLine[]; onPlaced: (order: Order) => void; onRefused: () => void }) {
  const { idempotencyKey, renewKey } = useBasket();
  const { noticeFailure } = useSession();
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const running = useRef(false);
  const total = lines.reduce((sum, { item, quantity }) => sum + item.price_minor * quantity, 0);
  const count = lines.reduce((sum, { quantity }) => sum + quantity, 0);

  const place = async () => {
    if (running.current) return;
    running.current = true;
    setBusy(true);
    setError(null);
    try {
      onPlaced(await order(lines, idempotencyKey));
    } catch (failure) {
      setError(failure);
      noticeFailure(failure);
      if (isFinal(failure)) renewKey();
      onRefused();
    } finally {
      running.current = false;
      setBusy(false);
    }
  };

  return (
    <div className="checkout">
      <p className="checkout-total">
        <span>{plural(count, "item")}</span>
        <strong data-testid="basket-total">{money(total, lines[0]?.item.currency ?? "EUR")}</strong>
      </p>
      {error !== null && <ErrorNotice error={error} onRetry={place} />}
      <button type="button" className="button button-primary button-wide" onClick={place} aria-disabled={busy} data-testid="place-order">
        {busy ? "Placing your order…" : "Place order"}
      </button>
      <p className="checkout-hint">Demo shop: no real payment is made.</p>
    </div>
  );
}

/** Places the order inside the browser's own root span, and reports that span afterwards. */
async function order(lines: BasketLine[], idempotencyKey: string): Promise<Order> {
  const span = startRootSpan("Place order");
  const wanted = lines.map(({ item, quantity }) => ({ sku: item.sku, quantity }));
  const placed = await api.placeOrder(wanted, idempotencyKey, span);
  // The trace is worth having, never worth failing for.
  api.reportSpan(span, nowUs() - span.startUs, true).catch(() => undefined);
  return placed;
}
