import { useCallback, useEffect, useMemo, useRef } from "react";
import { api, ApiError, type Trace } from "../api";
import { ErrorNotice } from "../components/notice";
import { PageTitle } from "../components/page-title";
import { Skeleton } from "../components/skeleton";
import { Waterfall } from "../components/waterfall";
import { duration } from "../format";
import { Link } from "../router";
import { waterfall } from "../trace/hops";
import { useLoad } from "../use-load";

/** Components export their spans in batches, so a young trace grows for some seconds. */
const LOOKS = 12;
const PAUSE_MS = 1_000;

/** `traceId` null: the last order of this account. */
export function HappenedPage({ traceId }: { traceId: string | null }) {
  const load = useCallback(() => find(traceId), [traceId]);
  const [trace, reload] = useLoad(load);
  const looks = useRef(0);

  useEffect(() => {
    const young = trace.phase === "ready" && trace.value !== null && looks.current < LOOKS;
    if (!young) return;
    const timer = setTimeout(() => {
      looks.current += 1;
      reload(true);
    }, PAUSE_MS);
    return () => clearTimeout(timer);
  }, [trace, reload]);

  return (
    <>
      <PageTitle title="What just happened">
        <p className="lead">One order, followed from your click to the confirmation. Each bar is a part of the platform that did its work, and checked something first.</p>
      </PageTitle>
      {trace.phase === "loading" && (
        <div role="status">
          <span className="visually-hidden">Loading the trace</span>
          <Skeleton lines={8} />
        </div>
      )}
      {trace.phase === "failed" && (isGone(trace.error) ? <Gone /> : <ErrorNotice error={trace.error} onRetry={() => reload()} />)}
      {trace.phase === "ready" && (trace.value === null ? <NoOrder /> : <TraceView trace={trace.value} />)}
    </>
  );
}

async function find(traceId: string | null): Promise<Trace | null> {
  if (traceId !== null) return api.trace(traceId);
  const { orders } = await api.orders(1);
  const last = orders[0]?.trace_id;
  return last ? api.trace(last) : null;
}

function isGone(error: unknown): boolean {
  return error instanceof ApiError && error.status === 404;
}

function TraceView({ trace }: { trace: Trace }) {
  const model = useMemo(() => waterfall(trace.spans), [trace]);
  if (trace.spans.length === 0) return <Collecting />;
  const services = new Set(model.hops.map((hop) => hop.service));
  return (
    <>
      <dl className="facts">
        <div>
          <dt>Total</dt>
          <dd>{duration(model.totalUs)}</dd>
        </div>
        <div>
          <dt>Hops</dt>
          <dd data-testid="hop-count">{model.hops.length}</dd>
        </div>
        <div>
          <dt>Parts involved</dt>
          <dd>{services.size}</dd>
        </div>
        <div className="facts-wide">
          <dt>Trace</dt>
          <dd>
            <code>{trace.trace_id}</code>
          </dd>
        </div>
      </dl>
      <Waterfall model={model} />
    </>
  );
}

function Collecting() {
  return (
    <div role="status" className="empty">
      <h2>Collecting the hops</h2>
      <p>The parts report what they did within a few seconds.</p>
    </div>
  );
}

function Gone() {
  return (
    <div className="empty">
      <h2>This trace is no longer kept</h2>
      <p>Traces are kept for a quarter of an hour. Place a new order to see a fresh one.</p>
      <Link href="/" className="button button-primary">
        To the catalogue
      </Link>
    </div>
  );
}

function NoOrder() {
  return (
    <div className="empty">
      <h2>Nothing has happened yet</h2>
      <p>Place an order first; then this page shows its way through the platform.</p>
      <Link href="/" className="button button-primary">
        To the catalogue
      </Link>
    </div>
  );
}
