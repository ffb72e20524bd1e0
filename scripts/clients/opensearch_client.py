"""The official OpenSearch client against a running Egret: opensearch_client.py ADDRESS"""

import sys

from opensearchpy import ConflictError, NotFoundError, OpenSearch, helpers

client = OpenSearch(sys.argv[1])
assert client.ping()
client.indices.create(
    index="herons",
    body={"mappings": {"properties": {"name": {"type": "text"}, "order": {"type": "keyword"}}}},
)
actions = [
    {"_index": "herons", "_id": str(n), "name": f"heron number {n}", "order": f"order {n % 3}", "n": n}
    for n in range(1000)
]
done, errors = helpers.bulk(client, actions, chunk_size=100, refresh=True)
assert (done, errors) == (1000, []), (done, errors)
assert client.count(index="herons")["count"] == 1000

answer = client.search(
    index="herons",
    body={
        "query": {"match": {"name": {"query": "heron 42", "operator": "and"}}},
        "aggs": {"numbers": {"stats": {"field": "n"}}},
    },
)
assert answer["hits"]["total"] == {"value": 1, "relation": "eq"}, answer
assert answer["hits"]["hits"][0]["_source"]["n"] == 42
assert answer["aggregations"]["numbers"] == {"count": 1, "min": 42, "max": 42, "avg": 42, "sum": 42}

try:
    client.create(index="herons", id="7", body={"n": 0})
    raise AssertionError("a second create should conflict")
except ConflictError:
    pass
assert client.delete(index="herons", id="7", refresh=True)["result"] == "deleted"
try:
    client.get(index="herons", id="7")
    raise AssertionError("a deleted document should be missing")
except NotFoundError:
    pass
assert client.count(index="herons")["count"] == 999
client.indices.delete(index="herons")
assert not client.indices.exists(index="herons")
print("done")
