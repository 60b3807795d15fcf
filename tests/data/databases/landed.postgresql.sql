SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.darkroom_audit (
    seq bigint NOT NULL,
    at bigint NOT NULL,
    content text NOT NULL,
    previous character varying(64) NOT NULL,
    hash character varying(64) NOT NULL
);
CREATE TABLE public.darkroom_audit_head (
    id integer NOT NULL,
    seq bigint NOT NULL,
    hash character varying(64) NOT NULL
);
CREATE SEQUENCE public.darkroom_audit_head_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.darkroom_audit_head_id_seq OWNED BY public.darkroom_audit_head.id;
CREATE TABLE public.darkroom_database (
    id character varying(36) NOT NULL
);
CREATE TABLE public.darkroom_gain (
    id integer NOT NULL,
    gain double precision NOT NULL
);
CREATE SEQUENCE public.darkroom_gain_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.darkroom_gain_id_seq OWNED BY public.darkroom_gain.id;
CREATE TABLE public.darkroom_key_charges (
    id character varying(36) NOT NULL,
    key character varying(36) NOT NULL,
    day integer NOT NULL,
    images integer NOT NULL,
    lease double precision
);
CREATE TABLE public.darkroom_key_hits (
    key character varying(36) NOT NULL,
    place integer NOT NULL,
    at double precision NOT NULL
);
CREATE TABLE public.darkroom_keys (
    id character varying(36) NOT NULL,
    name character varying(100) NOT NULL,
    digest character varying(64) NOT NULL,
    role character varying(10) NOT NULL,
    rate character varying(20),
    images_per_day integer,
    concurrent integer,
    priority character varying(10),
    created_at double precision NOT NULL,
    revoked_at double precision,
    requests bigint DEFAULT '0'::bigint NOT NULL
);
CREATE TABLE public.darkroom_proxies (
    id character varying(100) NOT NULL,
    beat bigint NOT NULL
);
CREATE TABLE public.darkroom_speeds (
    operation character varying(40) NOT NULL,
    kind character varying(100) NOT NULL,
    learnt json NOT NULL
);
CREATE TABLE public.darkroom_tasks (
    id character varying(36) NOT NULL,
    operation character varying(40) NOT NULL,
    client character varying(200) NOT NULL,
    priority character varying(10) NOT NULL,
    state character varying(12) NOT NULL,
    tag integer NOT NULL,
    rank integer NOT NULL,
    idempotency_key character varying(300),
    digest character varying(64) NOT NULL,
    run character varying(36),
    attempts integer NOT NULL,
    fields json NOT NULL,
    files json NOT NULL,
    step integer NOT NULL,
    steps integer NOT NULL,
    kind character varying(100) NOT NULL,
    units double precision NOT NULL,
    pictures integer DEFAULT 1 NOT NULL,
    estimate double precision NOT NULL,
    created_at double precision NOT NULL,
    started_at double precision,
    completed_at double precision,
    expired_at double precision,
    error json,
    results json NOT NULL,
    bytes bigint NOT NULL,
    source character varying(200),
    newcomer boolean,
    lane character varying(20) DEFAULT 'images'::character varying NOT NULL,
    exclusive character varying(200),
    held boolean DEFAULT false NOT NULL,
    worker character varying(100),
    requested_operation character varying(40)
);
CREATE TABLE public.darkroom_web_ui_options (
    caller character varying(200) NOT NULL,
    options text NOT NULL,
    changed_at double precision NOT NULL
);
ALTER TABLE ONLY public.darkroom_audit_head ALTER COLUMN id SET DEFAULT nextval('public.darkroom_audit_head_id_seq'::regclass);
ALTER TABLE ONLY public.darkroom_gain ALTER COLUMN id SET DEFAULT nextval('public.darkroom_gain_id_seq'::regclass);
INSERT INTO public.darkroom_audit VALUES (1, 1796008227389057, '{"at":1796008227389057,"event":"request","seq":1}', '0000000000000000000000000000000000000000000000000000000000000000', '3e2a3fc0d6a22dd539211069d4968be209ad1a19c09f822ce83d1d00e3282add');
INSERT INTO public.darkroom_audit_head VALUES (1, 1, '3e2a3fc0d6a22dd539211069d4968be209ad1a19c09f822ce83d1d00e3282add');
INSERT INTO public.darkroom_database VALUES ('0abb5cd8-a9a3-449e-9ad7-9a5d1801e2aa');
INSERT INTO public.darkroom_keys VALUES ('b44635a671b2', 'anna', '9895c208c8817ea65eff14a30694bc6038ef4e3313f989a001d9daf09bd604f5', 'admin', NULL, 5, NULL, NULL, 1796008227.1065016, NULL, 0);
INSERT INTO public.darkroom_tasks VALUES ('00000000-0000-4000-8000-000000000002', 'generate', 'ben', 'normal', 'queued', 2, 536870915, NULL, 'd', NULL, 0, '{"prompt": "a cat", "seed": 7}', '["file"]', 0, 20, '64x64', 20, 1, 10, 1796008226.1510627, NULL, NULL, NULL, NULL, '[]', 10, '10.0.0.1', false, 'images', NULL, false, NULL, NULL);
INSERT INTO public.darkroom_tasks VALUES ('00000000-0000-4000-8000-000000000000', 'generate', 'anna', 'normal', 'completed', 0, 536870913, 'k1', 'd', 'run', 1, '{"prompt": "a cat", "seed": 7}', '["file"]', 0, 20, '64x64', 20, 1, 10, 1796008224.877487, 1796008226.418705, 1796008226.6114628, NULL, NULL, '[{"name": "00000000-0000-4000-8000-000000000000_0.png", "media_type": "image/png", "bytes": 3, "details": {"seed": 7}}]', 10, '10.0.0.1', false, 'images', NULL, false, NULL, NULL);
INSERT INTO public.darkroom_tasks VALUES ('00000000-0000-4000-8000-000000000001', 'generate', 'anna', 'normal', 'processing', 1, 536870914, NULL, 'd', 'run2', 1, '{"prompt": "a cat", "seed": 7}', '["file"]', 0, 20, '64x64', 20, 1, 10, 1796008225.5557647, 1796008226.8704247, NULL, NULL, NULL, '[]', 10, '10.0.0.1', false, 'images', NULL, false, NULL, NULL);
INSERT INTO public.darkroom_web_ui_options VALUES ('key:anna', '{"a": 1}', 1);
SELECT pg_catalog.setval('public.darkroom_audit_head_id_seq', 1, false);
SELECT pg_catalog.setval('public.darkroom_gain_id_seq', 1, false);
ALTER TABLE ONLY public.darkroom_audit_head
    ADD CONSTRAINT darkroom_audit_head_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.darkroom_audit
    ADD CONSTRAINT darkroom_audit_pkey PRIMARY KEY (seq);
ALTER TABLE ONLY public.darkroom_database
    ADD CONSTRAINT darkroom_database_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.darkroom_gain
    ADD CONSTRAINT darkroom_gain_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.darkroom_key_charges
    ADD CONSTRAINT darkroom_key_charges_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.darkroom_key_hits
    ADD CONSTRAINT darkroom_key_hits_pkey PRIMARY KEY (key, place);
ALTER TABLE ONLY public.darkroom_keys
    ADD CONSTRAINT darkroom_keys_digest_key UNIQUE (digest);
ALTER TABLE ONLY public.darkroom_keys
    ADD CONSTRAINT darkroom_keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.darkroom_proxies
    ADD CONSTRAINT darkroom_proxies_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.darkroom_speeds
    ADD CONSTRAINT darkroom_speeds_pkey PRIMARY KEY (operation, kind);
ALTER TABLE ONLY public.darkroom_tasks
    ADD CONSTRAINT darkroom_tasks_client_idempotency_key_key UNIQUE (client, idempotency_key);
ALTER TABLE ONLY public.darkroom_tasks
    ADD CONSTRAINT darkroom_tasks_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.darkroom_web_ui_options
    ADD CONSTRAINT darkroom_web_ui_options_pkey PRIMARY KEY (caller);
CREATE INDEX darkroom_audit_at ON public.darkroom_audit USING btree (at);
CREATE INDEX darkroom_key_charges_key ON public.darkroom_key_charges USING btree (key, day);
CREATE INDEX darkroom_tasks_client ON public.darkroom_tasks USING btree (client, created_at);
CREATE INDEX darkroom_tasks_exclusive ON public.darkroom_tasks USING btree (exclusive, state);
CREATE INDEX darkroom_tasks_queue ON public.darkroom_tasks USING btree (state, rank, created_at);
