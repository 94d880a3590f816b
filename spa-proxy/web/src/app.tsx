// Composition: providers, frame, and the page for the current path.
import { useEffect, useRef } from "react";
import { BasketProvider } from "./basket";
import { Footer } from "./components/footer";
import { Header } from "./components/header";
import { ErrorNotice } from "./components/notice";
import { PageSkeleton } from "./components/skeleton";
import { NotificationProvider } from "./notifications";
import { CataloguePage } from "./pages/catalogue";
import { HappenedPage } from "./pages/happened";
import { LandingPage } from "./pages/landing";
import { MissingPage } from "./pages/missing";
import { OrderPage } from "./pages/order";
import { OrdersPage } from "./pages/orders";
import { match, usePath, type Route } from "./router";
import { SessionProvider, useSession } from "./session";

export function App() {
  return (
    <SessionProvider>
      <NotificationProvider>
        <BasketProvider>
          <Frame />
        </BasketProvider>
      </NotificationProvider>
    </SessionProvider>
  );
}

function Frame() {
  const path = usePath();
  const main = useRef<HTMLElement>(null);
  const first = useRef(true);

  // A page change moves the focus, so that a screen reader announces the new page.
  useEffect(() => {
    if (first.current) first.current = false;
    else main.current?.focus({ preventScroll: true });
  }, [path]);

  return (
    <>
      <a className="skip-link" href="#main">
        Skip to content
      </a>
      <Header />
      <main id="main" ref={main} tabIndex={-1} className="page">
        <Page route={match(path)} />
      </main>
      <Footer />
    </>
  );
}

function Page({ route }: { route: Route }) {
  const { state, reload } = useSession();
  if (route.page === "missing") return <MissingPage />;
  switch (state.phase) {
    case "loading":
      return <PageSkeleton />;
    case "failed":
      return <ErrorNotice error={state.error} onRetry={reload} />;
    case "signed-out":
      return <LandingPage ended={state.reason === "ended"} />;
    case "signed-in":
      return <SignedInPage route={route} />;
  }
}

function SignedInPage({ route }: { route: Route }) {
  switch (route.page) {
    case "home":
      return <CataloguePage />;
    case "orders":
      return <OrdersPage />;
    case "order":
      return <OrderPage key={route.id} id={route.id} />;
    case "happened":
      return <HappenedPage key={route.traceId ?? "last"} traceId={route.traceId} />;
    case "missing":
      return <MissingPage />;
  }
}
