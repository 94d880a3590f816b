//! The stock against a real SQLite file.

use ringwall_proto::lines::Line;
use ringwall_store::StoreLimits;

use super::*;
use crate::catalogue::RANGE;

async fn stock(directory: &tempfile::TempDir) -> Stock {
    let path = directory.path().join("inventory.db");
    let stock = Stock::new(Database::open(path, MIGRATIONS, StoreLimits::default()).unwrap());
    stock.seed(&RANGE, None).await.unwrap();
    stock
}

fn request(order_id: OrderId, wanted: &[(&str, i64)]) -> ReservationRequest {
    let lines = wanted.iter().map(|(sku, quantity)| Line {
        sku: Sku::parse(*sku).unwrap(),
        quantity: Quantity::new(*quantity).unwrap(),
    });
    ReservationRequest {
        order_id,
        lines: Lines::new(lines.collect()).unwrap(),
    }
}

async fn available(stock: &Stock, sku: &str) -> u32 {
    let items = stock.items().await.unwrap();
    items
        .iter()
        .find(|item| item.sku.as_str() == sku)
        .unwrap()
        .available
}

#[tokio::test]
async fn the_catalogue_keeps_its_order_and_is_seeded_once() {
    let directory = tempfile::tempdir().unwrap();
    let stock = stock(&directory).await;
    stock
        .reserve(request(OrderId::generate(), &[("clock-quiet", 1)]))
        .await
        .unwrap();
    stock.seed(&RANGE, Some(9)).await.unwrap();

    let items = stock.items().await.unwrap();
    let skus: Vec<_> = items.iter().map(|item| item.sku.as_str()).collect();
    assert_eq!(skus, RANGE.map(|item| item.sku));
    assert_eq!(
        available(&stock, "clock-quiet").await,
        2,
        "a second start must not restock"
    );
}

#[tokio::test]
async fn reserving_takes_every_line_at_the_price_of_the_shop() {
    let directory = tempfile::tempdir().unwrap();
    let stock = stock(&directory).await;
    let wanted = request(
        OrderId::generate(),
        &[("mug-stoneware", 2), ("pen-brass", 1)],
    );
    let Reserved::Now(reservation) = stock.reserve(wanted).await.unwrap() else {
        panic!("the first reservation is new");
    };
    assert_eq!(reservation.total_minor.get(), 2 * 1850 + 3200);
    assert_eq!(reservation.currency, Currency::EUR);
    assert_eq!(available(&stock, "mug-stoneware").await, 238);
    assert_eq!(available(&stock, "pen-brass").await, 119);
}

#[tokio::test]
async fn r61_one_line_out_of_stock_takes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let stock = stock(&directory).await;
    let wanted = request(
        OrderId::generate(),
        &[("mug-stoneware", 2), ("clock-quiet", 4)],
    );
    let error = stock.reserve(wanted.clone()).await.unwrap_err();
    assert!(matches!(error, InventoryError::OutOfStock(sku) if sku.as_str() == "clock-quiet"));
    assert_eq!(available(&stock, "mug-stoneware").await, 240);
    assert_eq!(available(&stock, "clock-quiet").await, 3);
    // Nothing stands in the way of the same order with less.
    stock
        .reserve(request(wanted.order_id, &[("clock-quiet", 3)]))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_unknown_item_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let stock = stock(&directory).await;
    let error = stock
        .reserve(request(OrderId::generate(), &[("gold", 1)]))
        .await
        .unwrap_err();
    assert!(matches!(error, InventoryError::UnknownItem(sku) if sku.as_str() == "gold"));
}

#[tokio::test]
async fn repeating_a_reservation_changes_nothing_and_other_lines_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let stock = stock(&directory).await;
    let order = OrderId::generate();
    let first = stock
        .reserve(request(order, &[("pen-brass", 5)]))
        .await
        .unwrap();
    let again = stock
        .reserve(request(order, &[("pen-brass", 5)]))
        .await
        .unwrap();
    let (Reserved::Now(first), Reserved::Before(again)) = (first, again) else {
        panic!("one new, one old");
    };
    assert_eq!(first, again);
    assert_eq!(available(&stock, "pen-brass").await, 115);

    let error = stock
        .reserve(request(order, &[("pen-brass", 6)]))
        .await
        .unwrap_err();
    assert!(matches!(error, InventoryError::OtherLines));
}

#[tokio::test]
async fn releasing_gives_back_once_and_the_order_stays_released() {
    let directory = tempfile::tempdir().unwrap();
    let stock = stock(&directory).await;
    let order = OrderId::generate();
    stock
        .reserve(request(order, &[("pen-brass", 5), ("lamp-oak", 1)]))
        .await
        .unwrap();
    stock.release(order).await.unwrap();
    stock.release(order).await.unwrap();
    assert_eq!(available(&stock, "pen-brass").await, 120);
    assert_eq!(available(&stock, "lamp-oak").await, 45);

    let late = stock
        .reserve(request(order, &[("pen-brass", 5)]))
        .await
        .unwrap_err();
    assert!(matches!(late, InventoryError::Released));
}

#[tokio::test]
async fn a_reserve_that_arrives_after_its_release_takes_no_stock() {
    let directory = tempfile::tempdir().unwrap();
    let stock = stock(&directory).await;
    let order = OrderId::generate();
    stock.release(order).await.unwrap();
    let late = stock
        .reserve(request(order, &[("pen-brass", 5)]))
        .await
        .unwrap_err();
    assert!(matches!(late, InventoryError::Released));
    assert_eq!(available(&stock, "pen-brass").await, 120);
}

#[tokio::test]
async fn the_last_pieces_are_sold_once_under_concurrency() {
    let directory = tempfile::tempdir().unwrap();
    let stock = stock(&directory).await;
    let buyers: Vec<_> = (0..32)
        .map(|_| {
            let stock = stock.clone();
            tokio::spawn(async move {
                let wanted = request(OrderId::generate(), &[("clock-quiet", 1)]);
                stock.reserve(wanted).await.is_ok()
            })
        })
        .collect();
    let mut sold = 0;
    for buyer in buyers {
        sold += usize::from(buyer.await.unwrap());
    }
    assert_eq!(sold, 3);
    assert_eq!(available(&stock, "clock-quiet").await, 0);
}

#[tokio::test]
async fn a_reservation_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let order = OrderId::generate();
    stock(&directory)
        .await
        .reserve(request(order, &[("pen-brass", 5)]))
        .await
        .unwrap();
    let reopened = stock(&directory).await;
    let again = reopened
        .reserve(request(order, &[("pen-brass", 5)]))
        .await
        .unwrap();
    assert!(matches!(again, Reserved::Before(_)));
    assert_eq!(available(&reopened, "pen-brass").await, 115);
}
