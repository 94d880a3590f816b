export function Footer() {
  return (
    <footer className="footer">
      <p>Ringwall Supply is the demo shop of the Ringwall platform. Nothing is sold here, and nothing leaves this machine.</p>
    </footer>
  );
}
