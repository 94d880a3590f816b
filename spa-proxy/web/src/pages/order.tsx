import { useCallback, useEffect } from "react";
import { api, type Order } from "../api";
import { Arrow, Check } from "../components/icons";
import { ErrorNotice, Notice } from "../components/notice";
import { PageTitle } from "../components/page-title";
import { PageSkeleton } from "../components/skeleton";
import { progress, StatusPill, type Progress } from "../components/status-pill";
import { dateTime, money, shortId } from "../format";
import { useNotifications, type StreamState } from "../notifications";
import { Link } from "../router";
import { useLoad } from "../use-load";

export function OrderPage({ id }: { id: string }) {
  const load = useCallback(() => api.order(id), [id]);
  const [order, reload] = useLoad(load);
  if (order.phase === "loading") return <PageSkeleton />;
  if (order.phase === "failed") {
    return (
      <>
        <PageTitle title="Order" />
        <ErrorNotice error={order.error} onRetry={() => reload()} />
      </>
    );
  }
  return <OrderView order={order.value} reload={() => reload(true)} />;
}

function OrderView({ order, reload }: { order: Order; reload: () => void }) {
  const { confirmed, stream } = useNotifications();
  const state = progress(order.status, confirmed.has(order.id));

  // An order that is still being worked on has no event of its own to wait for: look again.
  useEffect(() => {
    if (state !== "pending") return;
    const timer = setTimeout(reload, 2_000);
    return () => clearTimeout(timer);
  }, [state, order, reload]);

  return (
    <>
      <PageTitle title={`Order ${shortId(order.id)}`}>
        <div role="status" aria-live="polite" aria-atomic="true">
          <StatusPill state={state} />
        </div>
      </PageTitle>
      {state === "declined" && (
        <Notice tone="warning" title="This order was declined">
          <p>An article ran out or the payment was not accepted. Nothing was charged, and the stock is free again.</p>
        </Notice>
      )}
      {state === "failed" && (
        <Notice tone="warning" title="This order was not placed">
          <p>A part of the shop was away. Nothing was charged; please order again.</p>
        </Notice>
      )}
      {state !== "declined" && state !== "failed" && <Timeline state={state} stream={stream} placedAt={order.placed_at} />}
      <div className="order-columns">
        <Lines order={order} />
        <aside className="panel">
          <h2>What just happened?</h2>
          <p>Your order passed through several rings of defence. See each hop, what it checked and how long it took.</p>
          <Link href={order.trace_id ? `/what-happened/${order.trace_id}` : "/what-happened"} className="button button-primary" data-testid="show-trace">
            Show the hops <Arrow />
          </Link>
        </aside>
      </div>
      <p className="page-actions">
        <Link href="/">Continue shopping</Link>
        <Link href="/orders">All orders</Link>
      </p>
    </>
  );
}

function Timeline({ state, stream, placedAt }: { state: Progress; stream: StreamState; placedAt: string }) {
  const steps = [
    { title: "Placed", text: dateTime(placedAt), done: state !== "pending" },
    { title: "Paid and stored", text: state === "pending" ? "Working on it…" : "Payment captured, stock reserved", done: state !== "pending" },
    { title: "Confirmation received", text: waiting(state, stream), done: state === "confirmed" },
  ];
  return (
    <ol className="timeline" aria-label="Progress">
      {steps.map(({ title, text, done }, index) => (
        <li key={title} className={done ? "step step-done" : "step"}>
          <span className="step-mark" aria-hidden="true">
            {done ? <Check /> : index + 1}
          </span>
          <span className="step-title">
            {title}
            <span className="visually-hidden">{done ? " (done)" : " (waiting)"}</span>
          </span>
          <span className="step-text">{text}</span>
        </li>
      ))}
    </ol>
  );
}

function waiting(state: Progress, stream: StreamState): string {
  if (state === "confirmed") return "Everything is settled";
  if (stream === "waiting") return "Connection lost, trying again…";
  return "Waiting for the confirmation…";
}

function Lines({ order }: { order: Order }) {
  return (
    <section className="panel" aria-labelledby="lines-title">
      <h2 id="lines-title">Items</h2>
      <table className="lines">
        <thead>
          <tr>
            <th scope="col">Article</th>
            <th scope="col" className="number">
              Quantity
            </th>
            <th scope="col" className="number">
              Price
            </th>
          </tr>
        </thead>
        <tbody>
          {order.lines.map((line) => (
            <tr key={line.sku}>
              <td>{line.name}</td>
              <td className="number">{line.quantity}</td>
              <td className="number">{money(line.unit_price_minor * line.quantity, order.currency)}</td>
            </tr>
          ))}
        </tbody>
        <tfoot>
          <tr>
            <th scope="row" colSpan={2}>
              Total
            </th>
            <td className="number">{money(order.total_minor, order.currency)}</td>
          </tr>
        </tfoot>
      </table>
    </section>
  );
}
