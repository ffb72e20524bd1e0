//! Fields of type `geo_point`: what is near a place or within a box, and sorting by distance.

use serde_json::{Value, json};

use super::support::{Server, check};

/// Places, written in every way, in two segments: 6 has two, 7 is no place, 8 has none.
async fn places() -> Server {
    let server = Server::start().await;
    let mapping = json!({"mappings": {"properties": {
        "at": {"type": "geo_point", "ignore_malformed": true}, "name": {"type": "keyword"}}}});
    check(&server.put("/places", mapping.clone()).await, 200, &json!({}));
    let places = [
        ("Zurich", json!({"lat": 47.3769, "lon": 8.5417})),
        ("Bern", json!("46.948,7.4474")),
        ("Geneva", json!([6.1432, 46.2044])),
        ("Suva", json!("POINT (178.4419 -18.1248)")),
        ("Apia", json!({"type": "Point", "coordinates": [-171.7514, -13.8506]})),
        ("Basel and Lugano", json!([[7.5886, 47.5596], {"lat": 46.0037, "lon": 8.9511}])),
        ("nowhere", json!({"lat": 123, "lon": 8})),
        ("unknown", Value::Null),
    ];
    for (place, (name, at)) in places.into_iter().enumerate() {
        let path = format!("/places/_doc/{}?refresh={}", place + 1, place == 3);
        check(
            &server.put(&path, json!({"name": name, "at": at, "n": place})).await,
            201,
            &json!({}),
        );
    }
    check(&server.ask("POST", "/places/_refresh", "").await, 200, &json!({}));
    server
}

fn ids(answer: &Value) -> String {
    let hits = answer["hits"]["hits"].as_array().unwrap().iter();
    hits.map(|hit| hit["_id"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn what_is_near_and_what_is_in_a_box() {
    let server = places().await;
    let zurich = json!({"lat": 47.3769, "lon": 8.5417});
    let near =
        |distance: Value| json!({"geo_distance": {"distance": distance, "at": zurich.clone()}});
    let corners = |top_left: Value, bottom_right: Value| json!({"geo_bounding_box": {"at": {"top_left": top_left, "bottom_right": bottom_right}}});
    for (query, expected) in [
        (near(json!("10m")), "1"),
        (near(json!("80km")), "1 6"),
        (near(json!("100km")), "1 2 6"),
        (near(json!("70mi")), "1 2 6"),
        (near(json!(224_000)), "1 2 6"),
        (near(json!("225000")), "1 2 3 6"),
        (near(json!("20000km")), "1 2 3 4 5 6"),
        (corners(json!({"lat": 48, "lon": 7}), json!({"lat": 46.5, "lon": 8})), "2 6"),
        (corners(json!([7, 48]), json!("46.5,9")), "1 2 6"),
        // Over the 180th meridian.
        (corners(json!([170, 0]), json!([-170, -20])), "4 5"),
        (corners(json!([-170, 0]), json!([170, -20])), ""),
        (
            json!({"geo_bounding_box": {"at": {"top": 47, "left": 6, "bottom": 46, "right": 8}}}),
            "2 3",
        ),
        (json!({"geo_bounding_box": {"at": {"wkt": "BBOX (6, 8, 47, 46)"}}}), "2 3"),
        // Edges are within.
        (corners(json!([7.4474, 46.948]), json!([7.4474, 46.948])), "2"),
        (corners(json!([6.1432, 47]), json!([7.4474, 46.2044])), "2 3"),
        (json!({"exists": {"field": "at"}}), "1 2 3 4 5 6"),
        (json!({"geo_distance": {"distance": "1km", "no": [0, 0], "ignore_unmapped": true}}), ""),
        (
            json!({"bool": {"must_not": near(json!("100km")), "filter": {"term": {"name": "Bern"}}}}),
            "",
        ),
    ] {
        let search = json!({"query": query, "sort": ["n"]});
        assert_eq!(ids(&server.search("/places/_search", search).await), expected, "{query}");
    }
    for (query, reason) in [
        (near(json!("0km")), "distance must be greater than zero"),
        (near(json!("1parsec")), "No distance unit match [parsec]"),
        (corners(json!([7, 46]), json!([8, 47])), "top is below bottom corner"),
        (corners(json!([7, 91]), json!([8, 47])), "illegal latitude value [91]"),
        (json!({"geo_distance": {"distance": "1km"}}), "requires a field and a point"),
        (
            json!({"geo_distance": {"distance": "1km", "no": [0, 0]}}),
            "failed to find geo field [no]",
        ),
        (json!({"geo_distance": {"distance": "1km", "name": [0, 0]}}), "is of type [keyword]"),
        (
            json!({"geo_distance": {"distance": "1km", "at": [0, 0], "distance_type": "plane"}}),
            "distance_type [plane] is not supported",
        ),
        (json!({"term": {"at": "1,2"}}), "do not support exact searching"),
        (json!({"range": {"at": {"gt": 1}}}), "does not support range queries"),
    ] {
        let answer =
            server.ask("POST", "/places/_search", json!({"query": query}).to_string()).await;
        assert!(answer.status == 400 && answer.text.contains(reason), "{query}: {}", answer.text);
    }
}

#[tokio::test]
async fn the_nearest_come_first() {
    let server = places().await;
    let by = |options: Value| {
        let mut sort = json!({"at": [8.5417, 47.3769], "unit": "km"});
        sort.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        json!({"sort": [{"_geo_distance": sort}, "n"], "size": 3})
    };
    // Page after page, also past those that have no place.
    let (mut search, mut sorted) = (by(json!({})), Vec::new());
    loop {
        let answer = server.search("/places/_search", search.clone()).await;
        let hits = answer["hits"]["hits"].as_array().unwrap();
        let Some(last) = hits.last() else { break };
        search["search_after"] = last["sort"].clone();
        for hit in hits {
            let distance = &hit["sort"][0];
            let shown = distance.as_f64().map_or(distance.to_string(), |km| format!("{km:.0}"));
            sorted.push(format!("{} {shown}", hit["_id"].as_str().unwrap()));
        }
    }
    let expected =
        ["1 0", "6 74", "2 95", "3 224", "5 16287", "4 16635", "7 \"Infinity\"", "8 \"Infinity\""];
    assert_eq!(sorted, expected);
    let ids_by = async |options: Value| ids(&server.search("/places/_search", by(options)).await);
    assert_eq!(ids_by(json!({"order": "desc"})).await, "7 8 4");
    assert_eq!(ids_by(json!({"mode": "max"})).await, "1 2 6");
    // The nearest of several places counts.
    let two = json!({"sort": [{"_geo_distance": {"at": [[178, -18], [6, 46]]}}], "size": 2,
        "query": {"exists": {"field": "at"}}, "docvalue_fields": ["at"]});
    let answer = server.search("/places/_search", two).await;
    assert_eq!(ids(&answer), "3 4");
    let listed = answer["hits"]["hits"][0]["fields"]["at"][0].as_str().unwrap();
    let (lat, lon) = listed.split_once(", ").unwrap();
    let near = |text: &str, value: f64| (text.parse::<f64>().unwrap() - value).abs() < 1e-6;
    assert!(near(lat, 46.2044) && near(lon, 6.1432), "{listed}");
    for (sort, reason) in [
        (json!([{"_geo_distance": {"name": [0, 0]}}]), "[keyword], and not [geo_point]"),
        (json!([{"_geo_distance": {"no": [0, 0]}}]), "failed to find mapper for [no]"),
        (json!([{"_geo_distance": {"at": [0, 0], "mode": "sum"}}]), "isn't supported"),
        (json!([{"_geo_distance": {"unit": "km"}}]), "requires a field and a point"),
        (json!(["at"]), "can't sort on geo_point field"),
    ] {
        let answer = server.ask("POST", "/places/_search", json!({"sort": sort}).to_string()).await;
        assert!(answer.status == 400 && answer.text.contains(reason), "{sort}: {}", answer.text);
    }
    for kind in ["terms", "sum", "histogram", "cardinality"] {
        let aggregation = json!({"size": 0, "aggs": {"a": {kind: {"field": "at"}}}});
        let answer = server.ask("POST", "/places/_search", aggregation.to_string()).await;
        assert_eq!(answer.status, 400, "{kind}: {}", answer.text);
    }
}

#[tokio::test]
async fn what_is_no_place_is_refused_unless_it_may_be_left_out() {
    let server = Server::start().await;
    let mapping = json!({"mappings": {"properties": {"at": {"type": "geo_point"}}}});
    check(&server.put("/places", mapping).await, 200, &json!({}));
    let at = |at: Value| json!({"mappings": {"properties": {"at": at}}});
    for stands_in in [json!({"lat": 1, "lon": 2}), json!([2, 1]), json!("1,2")] {
        let mapping = at(json!({"type": "geo_point", "null_value": stands_in.clone()}));
        check(&server.put("/others", mapping).await, 200, &json!({}));
        check(
            &server.put("/others/_doc/1?refresh=true", json!({"at": null})).await,
            201,
            &json!({}),
        );
        let near = json!({"query": {"geo_distance": {"distance": "1m", "at": [2, 1]}}});
        assert_eq!(ids(&server.search("/others/_search", near).await), "1", "{stands_in}");
        check(&server.ask("DELETE", "/others", "").await, 200, &json!({}));
    }
    for wrong in [json!({"null_value": "somewhere"}), json!({"doc_values": false})] {
        let mut mapping = at(json!({"type": "geo_point"}));
        let field = mapping["mappings"]["properties"]["at"].as_object_mut().unwrap();
        field.extend(wrong.as_object().unwrap().clone());
        assert_eq!(server.put("/others", mapping).await.status, 400, "{wrong}");
    }
    for wrong in [
        json!({"lat": 91, "lon": 0}),
        json!({"lat": 1}),
        json!("somewhere"),
        json!([1]),
        json!([1, 2, 3, 4]),
        json!([[1, 2], "somewhere"]),
        json!(5),
        json!(true),
        json!([{"lat": 1, "lon": [2]}]),
    ] {
        let answer = server.put("/places/_doc/1", json!({"at": wrong})).await;
        check(&answer, 400, &json!({"error": {"type": "document_parsing_exception"}}));
    }
    for fine in [json!([]), json!([null]), json!([-1.5, 2]), json!([[-1.5, 2], "1,2", null, "u0m"])]
    {
        let answer = server.put("/places/_doc/1", json!({"at": fine})).await;
        assert!(answer.status.is_success(), "{fine}: {}", answer.text);
    }
}
