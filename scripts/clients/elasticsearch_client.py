"""The official Elasticsearch client against a running Egret: elasticsearch_client.py ADDRESS"""

import sys

from elasticsearch import ConflictError, Elasticsearch, NotFoundError, helpers

client = Elasticsearch(sys.argv[1])
assert client.info()["version"]["number"].startswith("8."), client.info()
assert client.ping()

client.indices.create(
    index="birds",
    mappings={"properties": {"name": {"type": "text"}, "order": {"type": "keyword"}}},
)
assert client.indices.exists(index="birds")

actions = (
    {"_index": "birds", "_id": str(n), "name": f"egret number {n}", "order": f"order {n % 3}", "n": n}
    for n in range(1000)
)
done, errors = helpers.bulk(client, actions, chunk_size=100, refresh="wait_for")
assert (done, errors) == (1000, []), (done, errors)
assert client.count(index="birds")["count"] == 1000

answer = client.search(
    index="birds",
    query={"match": {"name": {"query": "egret 42", "operator": "and"}}},
    aggs={"orders": {"terms": {"field": "order"}}},
    highlight={"fields": {"name": {}}},
)
assert answer["hits"]["total"] == {"value": 1, "relation": "eq"}, answer
assert answer["hits"]["hits"][0]["_source"]["n"] == 42
assert answer["hits"]["hits"][0]["highlight"]["name"] == ["<em>egret</em> number <em>42</em>"]
assert answer["aggregations"]["orders"]["buckets"] == [{"key": "order 0", "doc_count": 1}]

page = client.search(index="birds", size=3, sort=[{"n": "desc"}], source=["n"])
assert [hit["_source"] for hit in page["hits"]["hits"]] == [{"n": 999}, {"n": 998}, {"n": 997}]
after = client.search(
    index="birds", size=2, sort=[{"n": "desc"}], search_after=page["hits"]["hits"][-1]["sort"]
)
assert [hit["_source"]["n"] for hit in after["hits"]["hits"]] == [996, 995]

assert client.get(index="birds", id="7")["_source"]["n"] == 7
assert client.index(index="birds", id="7", document={"n": -7})["result"] == "updated"
assert client.get(index="birds", id="7")["_source"] == {"n": -7}
try:
    client.create(index="birds", id="7", document={"n": 0})
    raise AssertionError("a second create should conflict")
except ConflictError:
    pass

assert client.delete(index="birds", id="7", refresh=True)["result"] == "deleted"
try:
    client.get(index="birds", id="7")
    raise AssertionError("a deleted document should be missing")
except NotFoundError:
    pass
assert client.count(index="birds")["count"] == 999

# All documents, page by page; many writers at once; copies.
seen = {hit["_id"] for hit in helpers.scan(client, index="birds", size=100)}
assert len(seen) == 999, len(seen)
ordered = helpers.scan(client, index="birds", query={"sort": ["n"]}, size=300, preserve_order=True)
assert [hit["_source"]["n"] for hit in ordered] == [n for n in range(1000) if n != 7]
assert helpers.reindex(client, "birds", "copies") == (999, 0)
more = ({"_index": "more", "_id": str(n), "n": n} for n in range(500))
assert all(ok for ok, _ in helpers.parallel_bulk(client, more, thread_count=4, chunk_size=50))
client.indices.refresh(index="copies,more")
assert client.count(index="copies,more")["count"] == 1499
copied = client.reindex(source={"index": "more"}, dest={"index": "third"}, refresh=True)
assert (copied["created"], copied["failures"]) == (500, []), copied
updated = client.update_by_query(index="third", query={"range": {"n": {"lt": 100}}}, refresh=True)
assert updated["updated"] == 100, updated
task = client.delete_by_query(
    index="third", query={"range": {"n": {"gte": 100}}}, wait_for_completion=False
)["task"]
done = client.tasks.get(task_id=task, wait_for_completion=True)
assert done["response"]["deleted"] == 400, done
point = client.open_point_in_time(index="birds", keep_alive="1m")["id"]
first = client.search(pit={"id": point}, sort=["n"], size=2)
after = first["hits"]["hits"][-1]["sort"]
second = client.search(pit={"id": point}, sort=["n"], size=2, search_after=after)
assert [hit["_source"]["n"] for hit in second["hits"]["hits"]] == [2, 3], second
assert client.close_point_in_time(id=point)["num_freed"] == 1
client.index(index="third", id="x", document={}, version=5, version_type="external")
try:
    client.index(index="third", id="x", document={}, version=5, version_type="external")
    raise AssertionError("the same external version should conflict")
except ConflictError:
    pass

client.indices.delete(index="birds")
assert not client.indices.exists(index="birds")
print("done")
