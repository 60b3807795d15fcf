BEGIN TRANSACTION;
CREATE TABLE darkroom_audit (
	seq BIGINT NOT NULL, 
	at BIGINT NOT NULL, 
	content TEXT NOT NULL, 
	previous VARCHAR(64) NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	PRIMARY KEY (seq)
);
INSERT INTO "darkroom_audit" VALUES(1,1796008196051498,'{"at":1796008196051498,"event":"request","seq":1}','0000000000000000000000000000000000000000000000000000000000000000','90551bd393322311281abc5e5c5862f80e0bd526d3bfceceafb915af80a318f7');
CREATE TABLE darkroom_audit_head (
	id INTEGER NOT NULL, 
	seq BIGINT NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "darkroom_audit_head" VALUES(1,1,'90551bd393322311281abc5e5c5862f80e0bd526d3bfceceafb915af80a318f7');
CREATE TABLE darkroom_database (
	id VARCHAR(36) NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "darkroom_database" VALUES('4099a275-d389-4427-a417-d93fac391416');
CREATE TABLE darkroom_gain (
	id INTEGER NOT NULL, 
	gain DOUBLE NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE darkroom_key_charges (
	id VARCHAR(36) NOT NULL, 
	"key" VARCHAR(36) NOT NULL, 
	day INTEGER NOT NULL, 
	images INTEGER NOT NULL, 
	lease DOUBLE, 
	PRIMARY KEY (id)
);
CREATE TABLE darkroom_key_hits (
	"key" VARCHAR(36) NOT NULL, 
	place INTEGER NOT NULL, 
	at DOUBLE NOT NULL, 
	PRIMARY KEY ("key", place)
);
CREATE TABLE darkroom_keys (
	id VARCHAR(36) NOT NULL, 
	name VARCHAR(100) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	role VARCHAR(10) NOT NULL, 
	rate VARCHAR(20), 
	images_per_day INTEGER, 
	concurrent INTEGER, 
	priority VARCHAR(10), 
	created_at DOUBLE NOT NULL, 
	revoked_at DOUBLE, 
	requests BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (digest)
);
INSERT INTO "darkroom_keys" VALUES('987fc48e20b9','anna','9d43ffa22e965b370381286c1899dfa608e715a4003bf5286e6f1b0bf4a4c0d6','admin',NULL,5,NULL,NULL,1.79600819591628432271e+09,NULL,0);
CREATE TABLE darkroom_proxies (
	id VARCHAR(100) NOT NULL, 
	beat BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE darkroom_speeds (
	operation VARCHAR(40) NOT NULL, 
	kind VARCHAR(100) NOT NULL, 
	learnt JSON NOT NULL, 
	PRIMARY KEY (operation, kind)
);
CREATE TABLE darkroom_tasks (
	id VARCHAR(36) NOT NULL, 
	operation VARCHAR(40) NOT NULL, 
	client VARCHAR(200) NOT NULL, 
	priority VARCHAR(10) NOT NULL, 
	state VARCHAR(12) NOT NULL, 
	tag INTEGER NOT NULL, 
	rank INTEGER NOT NULL, 
	idempotency_key VARCHAR(300), 
	digest VARCHAR(64) NOT NULL, 
	run VARCHAR(36), 
	attempts INTEGER NOT NULL, 
	fields JSON NOT NULL, 
	files JSON NOT NULL, 
	step INTEGER NOT NULL, 
	steps INTEGER NOT NULL, 
	kind VARCHAR(100) NOT NULL, 
	units FLOAT NOT NULL, 
	pictures INTEGER DEFAULT '1' NOT NULL, 
	estimate FLOAT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	started_at DOUBLE, 
	completed_at DOUBLE, 
	expired_at DOUBLE, 
	error JSON, 
	results JSON NOT NULL, 
	bytes BIGINT NOT NULL, 
	source VARCHAR(200), 
	newcomer BOOLEAN, 
	lane VARCHAR(20) DEFAULT 'images' NOT NULL, 
	"exclusive" VARCHAR(200), 
	held BOOLEAN DEFAULT 0 NOT NULL, 
	worker VARCHAR(100), 
	requested_operation VARCHAR(40), 
	PRIMARY KEY (id), 
	UNIQUE (client, idempotency_key)
);
INSERT INTO "darkroom_tasks" VALUES('00000000-0000-4000-8000-000000000000','generate','anna','normal','completed',0,536870913,'k1','d','run',1,'{"prompt": "a cat", "seed": 7}','["file"]',0,20,'64x64',20.0,1,10.0,1796008194.88312,1.79600819555068683631e+09,1.79600819570196843151e+09,NULL,NULL,'[{"name": "00000000-0000-4000-8000-000000000000_0.png", "media_type": "image/png", "bytes": 3, "details": {"seed": 7}}]',10,'10.0.0.1',0,'images',NULL,0,NULL,NULL);
INSERT INTO "darkroom_tasks" VALUES('00000000-0000-4000-8000-000000000001','generate','anna','normal','processing',1,536870914,NULL,'d','run2',1,'{"prompt": "a cat", "seed": 7}','["file"]',0,20,'64x64',20.0,1,10.0,1.79600819523634719853e+09,1.79600819580617165568e+09,NULL,NULL,NULL,'[]',10,'10.0.0.1',0,'images',NULL,0,NULL,NULL);
INSERT INTO "darkroom_tasks" VALUES('00000000-0000-4000-8000-000000000002','generate','ben','normal','queued',2,536870915,NULL,'d',NULL,0,'{"prompt": "a cat", "seed": 7}','["file"]',0,20,'64x64',20.0,1,10.0,1.79600819542381787306e+09,NULL,NULL,NULL,NULL,'[]',10,'10.0.0.1',0,'images',NULL,0,NULL,NULL);
CREATE TABLE darkroom_web_ui_options (
	caller VARCHAR(200) NOT NULL, 
	options TEXT NOT NULL, 
	changed_at DOUBLE NOT NULL, 
	PRIMARY KEY (caller)
);
INSERT INTO "darkroom_web_ui_options" VALUES('key:anna','{"a": 1}',1.0);
CREATE INDEX darkroom_tasks_queue ON darkroom_tasks (state, rank, created_at);
CREATE INDEX darkroom_tasks_client ON darkroom_tasks (client, created_at);
CREATE INDEX darkroom_tasks_exclusive ON darkroom_tasks ("exclusive", state);
CREATE INDEX darkroom_key_charges_key ON darkroom_key_charges ("key", day);
CREATE INDEX darkroom_audit_at ON darkroom_audit (at);
COMMIT;
