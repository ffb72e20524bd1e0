-- Loads a file of JSON objects, one a line, given on standard input, into a table `documents` whose
-- columns come from the objects: text, bigint, double precision and boolean where every value of a
-- key fits, jsonb for everything nested or mixed. The key `id` is the primary key where each object
-- has its own; otherwise the number of the line is.
CREATE TEMPORARY TABLE staged (line bigint GENERATED ALWAYS AS IDENTITY, object jsonb);
-- A CSV whose quote and delimiter are bytes that JSON cannot contain is one column, taken verbatim.
\copy staged (object) FROM pstdin WITH (FORMAT csv, DELIMITER E'\x02', QUOTE E'\x01')
DELETE FROM staged WHERE object IS NULL;  -- empty lines
DO $$
DECLARE
    has_key boolean;
    columns text;
    fields  text;
BEGIN
    SELECT count(*) FILTER (WHERE jsonb_typeof(object->'id') IN ('string', 'number')) = count(*)
           AND count(DISTINCT object->>'id') = count(*)
      INTO has_key FROM staged;
    WITH keys AS (
        SELECT key,
               CASE WHEN bool_and(kind = 'number' AND whole) THEN 'bigint'
                    WHEN bool_and(kind = 'number') THEN 'double precision'
                    WHEN bool_and(kind = 'boolean') THEN 'boolean'
                    WHEN bool_and(kind = 'string') THEN 'text'
                    ELSE 'jsonb' END AS type,
               min(position) AS position
          FROM (SELECT key, jsonb_typeof(value) AS kind, position,
                       CASE WHEN jsonb_typeof(value) = 'number'
                            THEN value::numeric % 1 = 0 AND abs(value::numeric) < 9e18
                            ELSE false END AS whole
                  FROM staged, jsonb_each(object) WITH ORDINALITY AS pair(key, value, position)
                 WHERE jsonb_typeof(value) <> 'null') AS pairs
         GROUP BY key)
    SELECT string_agg(format('%I %s', key, type), ', ' ORDER BY position, key),
           string_agg(CASE type WHEN 'jsonb' THEN format('object->%L', key)
                                ELSE format('(object->>%L)::%s', key, type) END,
                      ', ' ORDER BY position, key)
      INTO columns, fields FROM keys;
    IF NOT has_key THEN
        columns := concat_ws(', ', 'line bigint', columns);
        fields := concat_ws(', ', 'line', fields);
    END IF;
    EXECUTE format('CREATE TABLE documents (%s, PRIMARY KEY (%I))',
                   columns, CASE WHEN has_key THEN 'id' ELSE 'line' END);
    EXECUTE format('INSERT INTO documents SELECT %s FROM staged ORDER BY staged.line', fields);
END $$;
