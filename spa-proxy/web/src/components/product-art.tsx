import type { CSSProperties } from "react";

/** A picture for an article: open rings, drawn from its number, so that each has its own. */
export function ProductArt({ sku }: { sku: string }) {
  const seed = hash(sku);
  const rings = [70, 52, 34].map((radius, ring) => {
    const length = 2 * Math.PI * radius;
    const open = 0.55 + ((seed >>> (ring * 5)) % 32) / 90;
    return { radius, dash: `${length * open} ${length}`, turn: (seed >>> (ring * 7)) % 360 };
  });
  return (
    <svg className="art" viewBox="0 0 240 150" preserveAspectRatio="xMidYMid slice" aria-hidden="true" focusable="false" style={{ "--hue": seed % 360 } as CSSProperties}>
      <rect width="240" height="150" className="art-ground" />
      {rings.map(({ radius, dash, turn }, ring) => (
        <circle key={radius} cx="120" cy="75" r={radius} className={`art-ring art-ring-${ring}`} strokeDasharray={dash} transform={`rotate(${turn} 120 75)`} />
      ))}
      <circle cx="120" cy="75" r="12" className="art-core" />
    </svg>
  );
}

/** FNV-1a, 32 bits. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let index = 0; index < text.length; index += 1) value = Math.imul(value ^ text.charCodeAt(index), 0x01000193);
  return value >>> 0;
}
