import type { Item } from "../api";
import { money } from "../format";
import { Check } from "./icons";
import { ProductArt } from "./product-art";
import { Quantity } from "./quantity";

const FEW = 5;

export function ProductCard({ item, quantity, onChange }: { item: Item; quantity: number; onChange: (quantity: number) => void }) {
  const soldOut = item.available <= 0;
  return (
    <li className="card" data-testid={`item-${item.sku}`}>
      <div className="card-art">
        <ProductArt sku={item.sku} />
        {quantity > 0 && (
          <span className="card-badge">
            <Check /> In basket
          </span>
        )}
      </div>
      <div className="card-body">
        <h2 className="card-title">{item.name}</h2>
        <p className="card-text">{item.description}</p>
        <Stock available={item.available} />
        <div className="card-foot">
          <span className="price">{money(item.price_minor, item.currency)}</span>
          {quantity > 0 ? (
            <Quantity name={item.name} value={quantity} max={item.available} onChange={onChange} />
          ) : (
            <button type="button" className="button button-small" disabled={soldOut} onClick={() => onChange(1)} aria-label={`Add to basket: ${item.name}`}>
              Add to basket
            </button>
          )}
        </div>
      </div>
    </li>
  );
}

function Stock({ available }: { available: number }) {
  if (available <= 0) return <p className="stock stock-out">Sold out</p>;
  if (available <= FEW) return <p className="stock stock-few">Only {available} left</p>;
  return <p className="stock">In stock</p>;
}
