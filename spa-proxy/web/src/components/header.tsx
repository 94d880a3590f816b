import { useState } from "react";
import { explain } from "../errors";
import { Link, match, usePath, type Route } from "../router";
import { signOut, useSession } from "../session";
import { Logo } from "./logo";
import { ThemeToggle } from "./theme-toggle";

export function Header() {
  const { state } = useSession();
  const route = match(usePath());
  const signedIn = state.phase === "signed-in";
  return (
    <header className="header">
      <div className="header-inner">
        <Link href="/" className="brand">
          <Logo />
          <span>
            Ringwall <span className="brand-soft">Supply</span>
          </span>
        </Link>
        {signedIn && (
          <nav aria-label="Main" className="nav">
            <NavLink href="/" label="Catalogue" current={route.page === "home"} />
            <NavLink href="/orders" label="Orders" current={isOrders(route)} />
            <NavLink href="/what-happened" label="What just happened" short="Trace" current={route.page === "happened"} />
          </nav>
        )}
        <div className="header-end">
          <ThemeToggle />
          {signedIn && <Account name={state.user.name} />}
        </div>
      </div>
    </header>
  );
}

function isOrders(route: Route): boolean {
  return route.page === "orders" || route.page === "order";
}

function NavLink({ href, label, short, current }: { href: string; label: string; short?: string; current: boolean }) {
  return (
    <Link href={href} className="nav-link" aria-current={current ? "page" : undefined}>
      {short === undefined ? (
        label
      ) : (
        <>
          <span className="nav-long">{label}</span>
          <span className="nav-short">{short}</span>
        </>
      )}
    </Link>
  );
}

function Account({ name }: { name: string }) {
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<string | null>(null);
  const { reload } = useSession();
  const leave = () => {
    setBusy(true);
    setFailure(null);
    signOut().catch((error: unknown) => {
      setBusy(false);
      const { title, action } = explain(error);
      if (action === "sign-in") reload();
      else setFailure(title);
    });
  };
  return (
    <div className="account">
      <span className="account-name" data-testid="user-name" title={`Signed in as ${name}`}>
        <span className="avatar" aria-hidden="true">
          {name.slice(0, 1).toUpperCase()}
        </span>
        <span className="account-label">{name}</span>
      </span>
      <button type="button" className="button button-quiet" onClick={leave} disabled={busy} data-testid="sign-out">
        Sign out
      </button>
      <span role="alert" className="account-failure">
        {failure}
      </span>
    </div>
  );
}
