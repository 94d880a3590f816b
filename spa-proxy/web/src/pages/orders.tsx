import { useCallback, useState } from "react";
import { api, type Order, type OrderPage as Page } from "../api";
import { ErrorNotice } from "../components/notice";
import { PageTitle } from "../components/page-title";
import { Skeleton } from "../components/skeleton";
import { progress, StatusPill } from "../components/status-pill";
import { dateTime, money, plural, shortId } from "../format";
import { useNotifications } from "../notifications";
import { Link } from "../router";
import { useSession } from "../session";
import { useLoad } from "../use-load";

const PAGE_SIZE = 10;

export function OrdersPage() {
  const first = useCallback(() => api.orders(PAGE_SIZE), []);
  const [page, reload] = useLoad(first);
  return (
    <>
      <PageTitle title="Your orders" />
      {page.phase === "loading" && (
        <div role="status">
          <span className="visually-hidden">Loading your orders</span>
          <Skeleton lines={5} />
        </div>
      )}
      {page.phase === "failed" && <ErrorNotice error={page.error} onRetry={() => reload()} />}
      {page.phase === "ready" && (page.value.orders.length === 0 ? <NoOrders /> : <OrderList first={page.value} />)}
    </>
  );
}

function NoOrders() {
  return (
    <div className="empty" data-testid="no-orders">
      <h2>No orders yet</h2>
      <p>When you place one, it appears here with its status.</p>
      <Link href="/" className="button button-primary">
        Browse the catalogue
      </Link>
    </div>
  );
}

function OrderList({ first }: { first: Page }) {
  const { noticeFailure } = useSession();
  const { confirmed } = useNotifications();
  const [pages, setPages] = useState([first]);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const next = pages.at(-1)?.next_before;
  const orders = pages.flatMap((page) => page.orders);

  const more = async () => {
    setBusy(true);
    setError(null);
    try {
      const page = await api.orders(PAGE_SIZE, next);
      setPages((old) => [...old, page]);
    } catch (failure) {
      noticeFailure(failure);
      setError(failure);
    } finally {
      setBusy(false);
    }
  };

  return (
    <>
      <ul className="order-list" aria-label="Orders, newest first">
        {orders.map((order) => (
          <OrderRow key={order.id} order={order} confirmed={confirmed.has(order.id)} />
        ))}
      </ul>
      {error !== null && <ErrorNotice error={error} onRetry={more} />}
      {next !== undefined && (
        <button type="button" className="button" onClick={more} disabled={busy}>
          {busy ? "Loading…" : "Show older orders"}
        </button>
      )}
      <p className="visually-hidden" role="status">
        {plural(orders.length, "order")} shown
      </p>
    </>
  );
}

function OrderRow({ order, confirmed }: { order: Order; confirmed: boolean }) {
  const pieces = order.lines.reduce((sum, line) => sum + line.quantity, 0);
  return (
    <li className="order-row" data-testid="order-row">
      <div className="order-row-main">
        <Link href={`/orders/${encodeURIComponent(order.id)}`} className="order-row-link">
          Order {shortId(order.id)}
        </Link>
        <span className="order-row-meta">
          {dateTime(order.placed_at)} · {plural(pieces, "item")}
        </span>
      </div>
      <StatusPill state={progress(order.status, confirmed)} />
      <span className="price">{money(order.total_minor, order.currency)}</span>
    </li>
  );
}
