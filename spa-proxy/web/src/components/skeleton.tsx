/** Grey shapes in the place of what is being loaded. */
export function Skeleton({ lines = 3 }: { lines?: number }) {
  return (
    <div className="skeleton" aria-hidden="true">
      {Array.from({ length: lines }, (_, line) => (
        <span key={line} className="skeleton-line" />
      ))}
    </div>
  );
}

export function CardSkeletons({ count }: { count: number }) {
  return (
    <ul className="cards" aria-hidden="true">
      {Array.from({ length: count }, (_, card) => (
        <li key={card} className="card">
          <span className="skeleton-block card-art" />
          <div className="card-body">
            <Skeleton lines={3} />
          </div>
        </li>
      ))}
    </ul>
  );
}

export function PageSkeleton() {
  return (
    <div role="status" className="page-skeleton">
      <span className="visually-hidden">Loading</span>
      <Skeleton lines={4} />
    </div>
  );
}
