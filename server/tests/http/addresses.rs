//! Fields of type `ip`: addresses of both versions in their order, and networks.

use serde_json::{Value, json};

use super::support::{Server, check};

/// Hosts with addresses, in two segments; two without, one of them with a network instead.
async fn hosts() -> Server {
    let server = Server::start().await;
    let mapping = json!({"mappings": {"properties": {
        "address": {"type": "ip", "ignore_malformed": true, "fields": {"text": {"type": "keyword"}}}}}});
    check(&server.put("/hosts", mapping).await, 200, &json!({}));
    let addresses = [
        json!("9.0.0.1"),
        json!(["10.0.0.2", "2001:db8::2"]),
        json!("10.0.0.10"),
        json!("192.168.1.1"),
        json!("2001:DB8:0::1"),
        json!("::ffff:10.0.0.2"),
        json!("10.0.0.0/8"),
        Value::Null,
    ];
    for (place, address) in addresses.into_iter().enumerate() {
        let path = format!("/hosts/_doc/{}?refresh={}", place + 1, place == 3);
        check(&server.put(&path, json!({"address": address, "n": place})).await, 201, &json!({}));
    }
    check(&server.ask("POST", "/hosts/_refresh", "").await, 200, &json!({}));
    server
}

fn ids(answer: &Value) -> Vec<&str> {
    let hits = answer["hits"]["hits"].as_array().unwrap().iter();
    hits.map(|hit| hit["_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn addresses_are_found_one_by_one_and_by_network() {
    let server = hosts().await;
    let found = async |query: Value| {
        let search = json!({"query": query, "sort": ["n"]});
        ids(&server.search("/hosts/_search", search).await).join(" ")
    };
    for (query, expected) in [
        (json!({"term": {"address": "10.0.0.2"}}), "2 6"),
        (json!({"term": {"address": "::ffff:10.0.0.2"}}), "2 6"),
        (json!({"term": {"address": "2001:0db8::0001"}}), "5"),
        (json!({"term": {"address": "10.0.0.0/8"}}), "2 3 6"),
        (json!({"term": {"address": "10.0.0.0/29"}}), "2 6"),
        (json!({"term": {"address": "::/0"}}), "1 2 3 4 5 6"),
        (json!({"term": {"address": "2001:db8::/32"}}), "2 5"),
        (json!({"terms": {"address": ["9.0.0.1", "192.168.0.0/16"]}}), "1 4"),
        (json!({"terms": {"address": ["9.0.0.1", "9.0.0.2", "10.0.0.10"]}}), "1 3"),
        (
            json!({"terms": {"address": ["10.0.0.0/29", "10.0.0.0/8", "10.0.0.4/30", "9.0.0.1"]}}),
            "1 2 3 6",
        ),
        (json!({"terms": {"address": ["10.0.0.0/29", "10.0.0.10", "2001:db8::/127"]}}), "2 3 5 6"),
        (json!({"match": {"address": "9.0.0.1"}}), "1"),
        (json!({"range": {"address": {"gte": "10.0.0.2", "lt": "10.0.0.10"}}}), "2 6"),
        (json!({"range": {"address": {"gt": "10.0.0.2", "lte": "192.168.1.1"}}}), "3 4"),
        (json!({"range": {"address": {"gt": "192.168.1.1"}}}), "2 5"),
        (json!({"exists": {"field": "address"}}), "1 2 3 4 5 6"),
        (json!({"term": {"address.text": "10.0.0.0/8"}}), "7"),
        (json!({"query_string": {"query": "address:\"10.0.0.0/29\""}}), "2 6"),
    ] {
        assert_eq!(found(query.clone()).await, expected, "{query}");
    }
    for (query, reason) in [
        (json!({"term": {"address": "10.0.0"}}), "'10.0.0' is not an IP string literal."),
        (json!({"term": {"address": "10.0.0.0/33"}}), "'10.0.0.0/33' is not an IP network."),
        (json!({"range": {"address": {"gt": "x"}}}), "'x' is not an IP string literal."),
        (json!({"prefix": {"address": "10."}}), "which is of type [ip]"),
        (json!({"wildcard": {"address": "10.*"}}), "which is of type [ip]"),
    ] {
        let answer =
            server.ask("POST", "/hosts/_search", json!({"query": query}).to_string()).await;
        assert!(answer.status == 400 && answer.text.contains(reason), "{}", answer.text);
    }
}

#[tokio::test]
async fn addresses_are_sorted_and_counted_as_addresses() {
    let server = hosts().await;
    let mut search = json!({"size": 3, "sort": [{"address": {"order": "asc"}}, "n"],
        "docvalue_fields": ["address"]});
    let mut sorted = Vec::new();
    loop {
        let answer = server.search("/hosts/_search", search.clone()).await;
        let hits = answer["hits"]["hits"].as_array().unwrap();
        let Some(last) = hits.last() else { break };
        search["search_after"] = last["sort"].clone();
        let shown = |hit: &Value| format!("{} {}", hit["_id"].as_str().unwrap(), hit["sort"][0]);
        sorted.extend(hits.iter().map(shown));
    }
    let expected = [
        "1 \"9.0.0.1\"",
        "2 \"10.0.0.2\"",
        "6 \"10.0.0.2\"",
        "3 \"10.0.0.10\"",
        "4 \"192.168.1.1\"",
        "5 \"2001:db8::1\"",
        "7 null",
        "8 null",
    ];
    assert_eq!(sorted, expected);
    let sort = json!([{"address": {"order": "desc", "missing": "100.0.0.0"}}, "n"]);
    let search = json!({"sort": sort, "docvalue_fields": ["address"], "_source": false});
    let answer = server.search("/hosts/_search", search).await;
    assert_eq!(ids(&answer), ["2", "5", "4", "7", "8", "3", "6", "1"]);
    let two = json!({"address": ["10.0.0.2", "2001:db8::2"]});
    assert_eq!(answer["hits"]["hits"][0]["fields"], two);
    let aggregations = json!({
        "by": {"terms": {"field": "address", "order": {"_key": "asc"}, "missing": "0.0.0.0"}},
        "some": {"terms": {"field": "address", "include": ["9.0.0.1"]}},
        "different": {"cardinality": {"field": "address"}},
        "all": {"value_count": {"field": "address"}},
    });
    let search = json!({"size": 0, "aggs": aggregations});
    let answer = server.search("/hosts/_search", search).await;
    let buckets = |name: &str| -> Vec<Value> {
        let buckets = answer["aggregations"][name]["buckets"].as_array().unwrap().iter();
        buckets.map(|bucket| json!([bucket["key"], bucket["doc_count"]])).collect()
    };
    let expected = json!([
        ["0.0.0.0", 2],
        ["9.0.0.1", 1],
        ["10.0.0.2", 2],
        ["10.0.0.10", 1],
        ["192.168.1.1", 1],
        ["2001:db8::1", 1],
        ["2001:db8::2", 1]
    ]);
    assert_eq!(json!(buckets("by")), expected);
    assert_eq!(json!(buckets("some")), json!([["9.0.0.1", 1]]));
    assert_eq!(answer["aggregations"]["different"]["value"], 6);
    assert_eq!(answer["aggregations"]["all"]["value"], 7);
    let sum = json!({"size": 0, "aggs": {"s": {"sum": {"field": "address"}}}});
    assert_eq!(server.ask("POST", "/hosts/_search", sum.to_string()).await.status, 400);
}

/// The ids of all hosts by address, two at a time.
async fn pages(server: &Server, order: &str) -> String {
    let mut search = json!({"size": 2, "sort":
        [{"address": {"order": order, "missing": "10.0.0.0"}}, "n"]});
    let mut found = Vec::new();
    loop {
        let answer = server.search("/hosts/_search", search.clone()).await;
        let hits = answer["hits"]["hits"].as_array().unwrap();
        let Some(last) = hits.last() else { return found.join(" ") };
        assert!(found.len() < 10, "{found:?}");
        search["search_after"] = last["sort"].clone();
        found.extend(hits.iter().map(|hit| hit["_id"].as_str().unwrap().to_owned()));
    }
}

/// Pages past documents that count as having an address, in segments that have none at all.
#[tokio::test]
async fn pages_go_past_those_without_an_address() {
    let server = Server::start().await;
    let mapping = json!({"mappings": {"properties": {
        "address": {"type": "ip"}, "n": {"type": "long"}}}});
    check(&server.put("/hosts", mapping).await, 200, &json!({}));
    for (n, address) in ["9.0.0.1", "", "", "10.0.0.1", "", "11.0.0.1"].into_iter().enumerate() {
        let host =
            if address.is_empty() { json!({"n": n}) } else { json!({"n": n, "address": address}) };
        let path = format!("/hosts/_doc/{n}?refresh=true");
        check(&server.put(&path, host).await, 201, &json!({}));
    }
    assert_eq!(pages(&server, "asc").await, "0 1 2 4 3 5");
    assert_eq!(pages(&server, "desc").await, "5 3 1 2 4 0");
}

#[tokio::test]
async fn what_is_no_address_is_refused_unless_it_may_be_left_out() {
    let server = Server::start().await;
    let mapping = json!({"mappings": {"properties": {
        "address": {"type": "ip", "null_value": "0.0.0.0", "doc_values": false}}}});
    check(&server.put("/hosts", mapping).await, 200, &json!({}));
    let answer = server.put("/hosts/_doc/1", json!({"address": "10.0.0.0/8"})).await;
    check(&answer, 400, &json!({"error": {"type": "document_parsing_exception"}}));
    assert!(answer.text.contains("of type [ip] in document with id '1'"), "{}", answer.text);
    let path = "/hosts/_doc/2?refresh=true";
    check(&server.put(path, json!({"address": null})).await, 201, &json!({}));
    let query = json!({"query": {"term": {"address": "0.0.0.0/1"}}});
    let answer = server.search("/hosts/_search", query).await;
    assert_eq!(ids(&answer), ["2"]);
    let wrong = json!({"mappings": {"properties": {"a": {"type": "ip", "null_value": "x"}}}});
    assert_eq!(server.put("/other", wrong).await.status, 400);
    let sort = json!({"sort": ["address"]});
    assert_eq!(server.ask("POST", "/hosts/_search", sort.to_string()).await.status, 400);
}

#[tokio::test]
async fn indexes_with_another_type_are_not_sorted_together() {
    let server = hosts().await;
    for (index, kind, value) in
        [("texts", "keyword", json!("9.0.0.2")), ("longs", "long", json!(9))]
    {
        let mapping = json!({"mappings": {"properties": {"address": {"type": kind}}}});
        check(&server.put(&format!("/{index}"), mapping).await, 200, &json!({}));
        let path = format!("/{index}/_doc/1?refresh=true");
        check(&server.put(&path, json!({"address": value})).await, 201, &json!({}));
        let answer = server
            .ask(
                "POST",
                &format!("/hosts,{index}/_search"),
                &json!({"sort": ["address"]}).to_string(),
            )
            .await;
        check(&answer, 400, &json!({"error": {"type": "illegal_argument_exception"}}));
        // They are searched together where nothing is sorted.
        let search = json!({"size": 0, "sort": ["address"]});
        let found = server.search(&format!("/hosts,{index}/_search"), search).await;
        assert_eq!(found["hits"]["total"]["value"], 9);
    }
}
