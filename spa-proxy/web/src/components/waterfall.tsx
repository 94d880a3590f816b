import { useState, type CSSProperties } from "react";
import { duration, plural } from "../format";
import { guardText } from "../trace/checks";
import type { Guard, Hop, Waterfall as Model } from "../trace/hops";
import { Shield } from "./icons";

/** The hops of an order as bars over time. A list for the ear, a chart for the eye. */
export function Waterfall({ model }: { model: Model }) {
  const [open, setOpen] = useState<string | null>(null);
  return (
    <div className="waterfall" data-testid="waterfall">
      <div className="waterfall-scale" aria-hidden="true">
        {[0, 0.25, 0.5, 0.75, 1].map((part) => (
          <span key={part}>{part === 0 ? "0" : duration(model.totalUs * part)}</span>
        ))}
      </div>
      <ol className="hops">
        {model.hops.map((hop, index) => (
          <HopRow key={hop.id} hop={hop} number={index + 1} totalUs={model.totalUs} open={open === hop.id} onToggle={() => setOpen(open === hop.id ? null : hop.id)} />
        ))}
      </ol>
      <p className="waterfall-note">{plural(model.hops.length, "hop")}. Choose one to read what it checked.</p>
    </div>
  );
}

function HopRow({ hop, number, totalUs, open, onToggle }: { hop: Hop; number: number; totalUs: number; open: boolean; onToggle: () => void }) {
  const bar = {
    "--from": `${Math.max(0, (hop.offsetUs / totalUs) * 100)}%`,
    "--width": `${Math.min(100, (hop.durationUs / totalUs) * 100)}%`,
    "--depth": Math.min(hop.depth, 8),
  } as CSSProperties;
  return (
    <li className={`hop${hop.failed ? " hop-failed" : ""}`} style={bar} data-testid="hop" data-service={hop.service}>
      <button type="button" className="hop-head" aria-expanded={open} aria-controls={`hop-${hop.id}`} onClick={onToggle}>
        <span className="hop-label">
          <span className="hop-number" aria-hidden="true">
            {number}
          </span>
          <span className="hop-names">
            <span className="hop-service" data-group={group(hop.service)}>
              {hop.service}
            </span>
            <span className="hop-ring">
              <Shield /> {hop.check.ring}
              {hop.guards.length > 0 && ` · ${plural(hop.guards.length, "proxy", "proxies")}`}
            </span>
          </span>
        </span>
        <span className="hop-track" aria-hidden="true">
          <span className="hop-bar" data-group={group(hop.service)} />
        </span>
        <span className="hop-duration">
          {duration(hop.durationUs)}
          {hop.failed && <span className="visually-hidden">, failed</span>}
        </span>
      </button>
      <div id={`hop-${hop.id}`} className="hop-detail" hidden={!open}>
        <p>{hop.check.text}</p>
        {hop.guards.length > 0 && <Guards guards={hop.guards} />}
        <p className="hop-technical">
          <code>{hop.title}</code> started {duration(hop.offsetUs)} after the click
        </p>
      </div>
    </li>
  );
}

/** The proxies that the call came by: grouped with the hop that they guard, so that the chart stays short. */
function Guards({ guards }: { guards: Guard[] }) {
  return (
    <ul className="hop-guards" data-testid="guards">
      {guards.map((guard) => (
        <li key={guard.id} className={guard.allowed ? undefined : "hop-guard-refused"}>
          <strong>{guard.service}’s proxy</strong> {guardText(guard)} <span className="hop-guard-duration">{duration(guard.durationUs)}</span>
        </li>
      ))}
    </ul>
  );
}

/** Colours by kind of part, so that the same part looks the same everywhere. */
function group(service: string): string {
  if (service === "browser" || service === "spa-proxy") return "front";
  if (service === "gateway") return "edge";
  if (service === "authz-server" || service === "tokenizer") return "trust";
  if (service === "postgres" || service === "broker") return "data";
  return "service";
}
