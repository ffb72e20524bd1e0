//! Fields whose values are ranges: of numbers, dates and addresses.

use serde_json::{Value, json};

use super::support::{Server, check};

fn ids(answer: &Value) -> String {
    let hits = answer["hits"]["hits"].as_array().unwrap().iter();
    hits.map(|hit| hit["_id"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

async fn rooms() -> Server {
    let server = Server::start().await;
    let mapping = json!({"mappings": {"properties": {
        "stay": {"type": "date_range", "format": "yyyy-MM-dd"}, "n": {"type": "long"},
        "guests": {"type": "integer_range"}, "price": {"type": "double_range"},
        "net": {"type": "ip_range", "fields": {"text": {"type": "keyword"}}}}}});
    check(&server.put("/rooms", mapping).await, 200, &json!({}));
    let rooms = [
        json!({"n": 1, "stay": {"gte": "2024-05-01", "lt": "2024-05-10"},
            "guests": {"gte": 1, "lte": 2}, "net": "10.0.0.0/8", "price": {"gt": 10, "lt": 20.5}}),
        json!({"n": 2, "stay": [{"gte": "2024-06-01", "lte": "2024-06-05"}, {"gte": "2024-07-01"}],
            "guests": {"gt": 2}, "net": {"gte": "10.1.0.0", "lte": "10.2.0.0"}}),
        json!({"n": 3, "stay": {}, "guests": {"gte": 4, "lte": 4}, "net": "2001:db8::/32"}),
        json!({"n": 4, "stay": null, "guests": {"gt": 4, "lt": 5}}),
    ];
    for room in rooms {
        let path = format!("/rooms/_doc/{}?refresh=true", room["n"]);
        check(&server.put(&path, room).await, 201, &json!({}));
    }
    server
}

#[tokio::test]
async fn ranges_are_found_by_what_they_have_in_common() {
    let server = rooms().await;
    let stay = |from: &str, to: &str, relation: &str| json!({"range": {"stay": {"gte": from, "lt": to, "relation": relation}}});
    for (query, expected) in [
        (stay("2024-05-09", "2024-06-01", "intersects"), "1 3"),
        (stay("2024-05-10", "2024-06-01", "intersects"), "3"),
        (stay("2024-05-10", "2024-06-02", "intersects"), "2 3"),
        (stay("2024-04-01", "2024-06-02", "within"), "1"),
        (stay("2024-05-02", "2024-05-03", "contains"), "1 3"),
        (stay("2024-08-01", "2025-01-01", "contains"), "2 3"),
        (json!({"term": {"stay": "2024-05-09"}}), "1 3"),
        (json!({"range": {"stay": {"gte": "2024-05-01||/M", "lte": "2024-05-01||/M"}}}), "1 3"),
        (
            json!({"range": {"stay": {"gt": "10.05.2024", "format": "dd.MM.yyyy", "relation": "within"}}}),
            "2",
        ),
        (json!({"term": {"guests": 2}}), "1"),
        (json!({"terms": {"guests": [1, 4]}}), "1 2 3"),
        (json!({"range": {"guests": {"gt": 2.5}}}), "2 3"),
        (json!({"range": {"price": {"gte": 20.5}}}), ""),
        (json!({"range": {"price": {"gte": 20.4}}}), "1"),
        (json!({"term": {"net": "10.1.2.3"}}), "1 2"),
        (json!({"term": {"net": "2001:db8::5"}}), "3"),
        (json!({"term": {"net.text": "10.0.0.0/8"}}), "1"),
        (
            json!({"range": {"net": {"gte": "10.0.0.0", "lte": "10.3.0.0", "relation": "within"}}}),
            "2",
        ),
        (json!({"exists": {"field": "stay"}}), "1 2 3"),
        (json!({"exists": {"field": "guests"}}), "1 2 3"),
    ] {
        let search = json!({"query": query, "sort": ["n"]});
        assert_eq!(ids(&server.search("/rooms/_search", search).await), expected, "{query}");
    }
}

#[tokio::test]
async fn what_cannot_be_asked_of_ranges_is_refused() {
    let server = rooms().await;
    for (query, reason) in [
        (json!({"range": {"stay": {"gte": 1, "relation": "disjoint"}}}), "[within]"),
        (json!({"range": {"guests": {"gte": "x"}}}), "For input string"),
        (json!({"range": {"guests": {"gte": 1, "format": "yyyy"}}}), "[format]"),
        (json!({"term": {"net": "10.0.0.0/8"}}), "is not an IP string literal"),
        (json!({"term": {"stay": "once"}}), "failed to parse date field"),
        (json!({"prefix": {"net": "10"}}), "of type [ip_range]"),
    ] {
        let answer =
            server.ask("POST", "/rooms/_search", json!({"query": query}).to_string()).await;
        assert!(answer.status == 400 && answer.text.contains(reason), "{query}: {}", answer.text);
    }
    for search in [
        json!({"sort": ["stay"]}),
        json!({"docvalue_fields": ["stay"]}),
        json!({"aggs": {"a": {"terms": {"field": "guests"}}}}),
        json!({"aggs": {"a": {"sum": {"field": "guests"}}}}),
    ] {
        let answer = server.ask("POST", "/rooms/_search", search.to_string()).await;
        assert_eq!(answer.status, 400, "{search}: {}", answer.text);
    }
    for wrong in
        [json!({"guests": 5}), json!({"guests": {"gte": "x"}}), json!({"net": "10.0.0.0/99"})]
    {
        let answer = server.put("/rooms/_doc/9", wrong.clone()).await;
        check(&answer, 400, &json!({"error": {"type": "document_parsing_exception"}}));
    }
    // The mapping is what it was, read again.
    let mapping = server.get("/rooms/_mapping").await.json;
    let properties = &mapping["rooms"]["mappings"]["properties"];
    assert_eq!(properties["stay"], json!({"type": "date_range", "format": "yyyy-MM-dd"}));
    assert_eq!(properties["guests"], json!({"type": "integer_range"}));
}
