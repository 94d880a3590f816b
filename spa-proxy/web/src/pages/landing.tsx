import { Arrow, Shield } from "../components/icons";
import { Notice } from "../components/notice";
import { PageTitle } from "../components/page-title";
import { signIn } from "../session";

const RINGS = [
  { title: "No token in your browser", text: "You get a session cookie that scripts cannot read. The tokens stay behind it." },
  { title: "Every call is checked again", text: "Each service proves who it is by certificate, and asks who you are, every time." },
  { title: "See it happen", text: "After your order, follow it hop by hop, with what each one verified." },
];

/** spa-proxy comes back from a sign-in that failed with one of these words. */
const FAILURES: Record<string, string> = {
  denied: "You did not give the shop access, so nobody was signed in.",
  expired: "That sign-in took too long or was already used. Please start it again.",
  unavailable: "The sign-in service does not answer at the moment. Please try again shortly.",
  failed: "The sign-in could not be completed. Please start it again.",
};

export function LandingPage({ ended }: { ended: boolean }) {
  const failure = new URLSearchParams(window.location.search).get("sign_in");
  return (
    <div className="landing">
      {ended && (
        <Notice tone="warning" title="You are signed out">
          <p>Your session has ended. Sign in again to go on; your basket is kept.</p>
        </Notice>
      )}
      {!ended && failure !== null && (
        <Notice tone="warning" title="Not signed in">
          <p>{FAILURES[failure] ?? FAILURES["failed"]}</p>
        </Notice>
      )}
      <section className="hero">
        <div className="hero-text">
          <PageTitle title="Good kit, well guarded." />
          <p className="hero-lead">A small shop with an unusual amount of security behind it. Sign in, place an order, and watch every ring of defence do its part.</p>
          <button type="button" className="button button-primary button-large" onClick={signIn} data-testid="sign-in">
            Sign in <Arrow />
          </button>
        </div>
        <Rings />
      </section>
      <ul className="promises">
        {RINGS.map(({ title, text }) => (
          <li key={title}>
            <Shield />
            <h2>{title}</h2>
            <p>{text}</p>
          </li>
        ))}
      </ul>
    </div>
  );
}

function Rings() {
  return (
    <svg className="hero-art" viewBox="0 0 320 320" aria-hidden="true" focusable="false">
      <circle className="hero-ring hero-ring-1" cx="160" cy="160" r="146" pathLength="100" />
      <circle className="hero-ring hero-ring-2" cx="160" cy="160" r="112" pathLength="100" />
      <circle className="hero-ring hero-ring-3" cx="160" cy="160" r="78" pathLength="100" />
      <circle className="hero-ring hero-ring-4" cx="160" cy="160" r="46" pathLength="100" />
      <circle className="hero-core" cx="160" cy="160" r="18" />
    </svg>
  );
}
