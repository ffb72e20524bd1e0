-- What the index gave, to be held against the tables. Answers of searches, one page a row.
CREATE TEMPORARY TABLE IF NOT EXISTS pages (index text, answer jsonb);

CREATE OR REPLACE TEMPORARY VIEW hits AS
SELECT index, hit->>'_id' AS key, hit->'_source' AS source, hit->'fields' AS fields
  FROM pages, jsonb_array_elements(answer->'hits'->'hits') AS hit;

CREATE OR REPLACE TEMPORARY VIEW differences AS
WITH known AS (
    SELECT ARRAY['id', 'balance', 'changes', 'kind', 'note', 'weight', 'serial', 'active', 'at',
                 'payload'] AS known
), expected AS (
    SELECT 'accounts _source' AS side, id::text AS key, md5(ROW(id, balance, changes, kind, note, weight, serial, active, at, payload)::text)
           AS sum FROM accounts
    UNION ALL
    -- Columns that were added meanwhile.
    SELECT 'accounts others', id::text, md5(jsonb_strip_nulls(to_jsonb(accounts) - known)::text)
      FROM accounts, known
    UNION ALL
    SELECT 'accounts columns', id::text,
           md5(ROW(id, balance, changes, kind, weight, serial, active,
                   date_trunc('milliseconds', at))::text)
      FROM accounts
    UNION ALL
    SELECT 'journal _source', replace(replace(day, '\', '\\'), ',', '\,') || ',' || line,
           md5(journal::text)
      FROM journal
), shown AS (
    SELECT 'accounts _source' AS side, key,
           md5(ROW((source->>'id')::int, (source->>'balance')::bigint, (source->>'changes')::int,
                   source->>'kind', source->>'note', (source->>'weight')::double precision,
                   (source->>'serial')::bigint, (source->>'active')::boolean,
                   (source->>'at')::timestamptz, source->>'payload')::text) AS sum
      FROM hits WHERE index = 'accounts'
    UNION ALL
    SELECT 'accounts others', key, md5(jsonb_strip_nulls(source - known)::text)
      FROM hits, known WHERE index = 'accounts'
    UNION ALL
    SELECT 'accounts columns', key,
           md5(ROW((fields#>>'{id,0}')::int, (fields#>>'{balance,0}')::bigint,
                   (fields#>>'{changes,0}')::int, fields#>>'{kind.keyword,0}',
                   (fields#>>'{weight,0}')::double precision, (fields#>>'{serial,0}')::bigint,
                   (fields#>>'{active,0}')::boolean,
                   CASE jsonb_typeof(fields#>'{at,0}')
                       WHEN 'number' THEN to_timestamp((fields#>>'{at,0}')::numeric / 1000)
                       ELSE (fields#>>'{at,0}')::timestamptz END)::text)
      FROM hits WHERE index = 'accounts'
    UNION ALL
    SELECT 'journal _source', key,
           md5(ROW(source->>'day', (source->>'line')::int, (source->>'amount')::bigint)::text)
      FROM hits WHERE index = 'journal'
)
SELECT side, key,
       CASE WHEN shown.sum IS NULL THEN 'missing' WHEN expected.sum IS NULL THEN 'left over'
            ELSE 'different' END AS problem
  FROM expected FULL JOIN shown USING (side, key)
 WHERE expected.sum IS DISTINCT FROM shown.sum;
