import { PageTitle } from "../components/page-title";
import { Link } from "../router";

export function MissingPage() {
  return (
    <div className="empty">
      <PageTitle title="Page not found" />
      <p>There is nothing at this address.</p>
      <Link href="/" className="button button-primary">
        Back to the shop
      </Link>
    </div>
  );
}
