-- The demo's two tables. Owned by the role that Egret connects as.
CREATE TABLE packages (
    name           text PRIMARY KEY,
    version        text,
    section        text,
    priority       text,
    architecture   text,
    maintainer     text,
    installed_size bigint,  -- KiB
    download_size  bigint,  -- bytes
    homepage       text,
    depends        text,
    summary        text,
    description    text
);
CREATE TABLE package_tags (
    package text,
    tag     text,
    PRIMARY KEY (package, tag)
);
