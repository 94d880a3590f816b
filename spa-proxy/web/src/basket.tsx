// What the visitor is about to order. Kept in session storage, so that it survives the way
// through the sign-in page; it holds article numbers and quantities, nothing else.
import { createContext, useCallback, useContext, useMemo, useState, type ReactNode } from "react";

export const MAX_QUANTITY = 99;
export const MAX_LINES = 20;
const KEY = "ringwall-basket";

export type Basket = Readonly<Record<string, number>>;

interface BasketContext {
  basket: Basket;
  /** One key per content of the basket: pressing twice, or again after a lost answer, orders once. */
  idempotencyKey: string;
  set: (sku: string, quantity: number) => void;
  clear: () => void;
  /** The shop gave its final answer to this attempt: the next one is a new order. */
  renewKey: () => void;
}

const Context = createContext<BasketContext | null>(null);

export function BasketProvider({ children }: { children: ReactNode }) {
  const [state, setState] = useState(() => ({ basket: load(), idempotencyKey: crypto.randomUUID() as string }));

  const change = useCallback((next: (basket: Basket) => Basket) => {
    setState((old) => {
      const basket = next(old.basket);
      store(basket);
      return { basket, idempotencyKey: crypto.randomUUID() };
    });
  }, []);
  const set = useCallback((sku: string, quantity: number) => change((basket) => withQuantity(basket, sku, quantity)), [change]);
  const clear = useCallback(() => change(() => ({})), [change]);
  const renewKey = useCallback(() => setState((old) => ({ ...old, idempotencyKey: crypto.randomUUID() })), []);

  const value = useMemo(() => ({ ...state, set, clear, renewKey }), [state, set, clear, renewKey]);
  return <Context value={value}>{children}</Context>;
}

export function useBasket(): BasketContext {
  const value = useContext(Context);
  if (value === null) throw new Error("useBasket is used outside BasketProvider");
  return value;
}

/** Pure: the basket with one line changed; the limits are those of the orders service. */
export function withQuantity(basket: Basket, sku: string, quantity: number): Basket {
  const next: Record<string, number> = { ...basket };
  const wanted = Math.min(MAX_QUANTITY, Math.max(0, Math.trunc(quantity)));
  if (wanted === 0) delete next[sku];
  else if (sku in next || Object.keys(next).length < MAX_LINES) next[sku] = wanted;
  return next;
}

/** Pure: what session storage held, as far as it is a basket. */
export function parseBasket(text: string | null): Basket {
  try {
    const value: unknown = JSON.parse(text ?? "{}");
    if (typeof value !== "object" || value === null) return {};
    let basket: Basket = {};
    for (const [sku, quantity] of Object.entries(value)) {
      if (typeof quantity === "number" && Number.isFinite(quantity)) basket = withQuantity(basket, sku, quantity);
    }
    return basket;
  } catch {
    return {};
  }
}

function load(): Basket {
  try {
    return parseBasket(sessionStorage.getItem(KEY));
  } catch {
    return {};
  }
}

function store(basket: Basket): void {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(basket));
  } catch {
    // Storage is switched off: the basket then lives as long as the page.
  }
}
