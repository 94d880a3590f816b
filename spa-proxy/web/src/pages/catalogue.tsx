import { useCallback } from "react";
import { api, type Item, type Order } from "../api";
import { useBasket } from "../basket";
import { BasketPanel } from "../components/basket-panel";
import { ErrorNotice } from "../components/notice";
import { PageTitle } from "../components/page-title";
import { ProductCard } from "../components/product-card";
import { CardSkeletons } from "../components/skeleton";
import { plural } from "../format";
import { navigate } from "../router";
import { useLoad } from "../use-load";

export function CataloguePage() {
  const [items, reload] = useLoad(api.catalogue);
  return (
    <>
      <PageTitle title="Catalogue">
        <p className="lead">Pick what you need; the basket keeps it until you order.</p>
      </PageTitle>
      {items.phase === "loading" && (
        <div role="status">
          <span className="visually-hidden">Loading the catalogue</span>
          <CardSkeletons count={6} />
        </div>
      )}
      {items.phase === "failed" && <ErrorNotice error={items.error} onRetry={() => reload()} />}
      {items.phase === "ready" && <Shop items={items.value} reload={() => reload(true)} />}
    </>
  );
}

function Shop({ items, reload }: { items: Item[]; reload: () => void }) {
  const { basket, set, clear } = useBasket();
  const count = Object.values(basket).reduce((sum, quantity) => sum + quantity, 0);
  const placed = useCallback(
    (order: Order) => {
      clear();
      navigate(`/orders/${encodeURIComponent(order.id)}`);
    },
    [clear],
  );
  if (items.length === 0) return <p className="empty">The shelves are empty at the moment. Please come back later.</p>;
  return (
    <div className="shop">
      <div className="shop-main">
        <ul className="cards" aria-label="Articles">
          {items.map((item) => (
            <ProductCard key={item.sku} item={item} quantity={basket[item.sku] ?? 0} onChange={(quantity) => set(item.sku, quantity)} />
          ))}
        </ul>
        {count > 0 && (
          <a className="basket-jump button button-primary" href="#basket">
            Go to basket ({count})
          </a>
        )}
      </div>
      <BasketPanel items={items} onPlaced={placed} onRefused={reload} />
      <p className="visually-hidden" role="status">
        {plural(count, "item")} in the basket
      </p>
    </div>
  );
}
