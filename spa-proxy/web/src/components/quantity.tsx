import { MAX_QUANTITY } from "../basket";
import { Minus, Plus } from "./icons";

/** A stepper: two buttons around a number that can be typed too. */
export function Quantity({ name, value, max, onChange }: { name: string; value: number; max: number; onChange: (value: number) => void }) {
  const limit = Math.min(max, MAX_QUANTITY);
  return (
    <div className="quantity" role="group" aria-label={`Quantity of ${name}`}>
      <button type="button" onClick={() => onChange(value - 1)} aria-label={value === 1 ? `Remove ${name}` : `One less of ${name}`}>
        <Minus />
      </button>
      <input
        type="number"
        inputMode="numeric"
        min={1}
        max={limit}
        value={value}
        aria-label={`Quantity of ${name}`}
        onChange={(event) => {
          const typed = event.target.valueAsNumber;
          if (Number.isInteger(typed) && typed >= 1) onChange(Math.min(typed, limit));
        }}
      />
      <button type="button" onClick={() => onChange(value + 1)} disabled={value >= limit} aria-label={`One more of ${name}`}>
        <Plus />
      </button>
    </div>
  );
}
