BEGIN TRANSACTION;
CREATE TABLE darkroom_paces (
	operation VARCHAR(40) NOT NULL, 
	kind VARCHAR(100) NOT NULL, 
	seconds DOUBLE NOT NULL, 
	PRIMARY KEY (operation, kind)
);
INSERT INTO "darkroom_paces" VALUES('generate','64x64',0.25);
CREATE TABLE darkroom_proxies (
	id VARCHAR(100) NOT NULL, 
	beat BIGINT NOT NULL, 
	PRIMARY KEY (id)
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
	estimate FLOAT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	started_at DOUBLE, 
	completed_at DOUBLE, 
	expired_at DOUBLE, 
	error JSON, 
	results JSON NOT NULL, 
	bytes BIGINT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (client, idempotency_key)
);
INSERT INTO "darkroom_tasks" VALUES('00000000-0000-4000-8000-000000000000','generate','anna','normal','completed',0,536870913,'k1','d','run',1,'{"prompt": "a cat", "seed": 7}','["file"]',0,20,'64x64',20.0,10.0,1.79600797545065164568e+09,1.79600797659244108199e+09,1.79600797691729879377e+09,NULL,NULL,'[{"name": "00000000-0000-4000-8000-000000000000_0.png", "media_type": "image/png", "bytes": 3, "details": {"seed": 7}}]',10);
INSERT INTO "darkroom_tasks" VALUES('00000000-0000-4000-8000-000000000001','generate','anna','normal','processing',1,536870914,NULL,'d','run2',1,'{"prompt": "a cat", "seed": 7}','["file"]',0,20,'64x64',20.0,10.0,1.79600797602536678314e+09,1.79600797712577962871e+09,NULL,NULL,NULL,'[]',10);
INSERT INTO "darkroom_tasks" VALUES('00000000-0000-4000-8000-000000000002','generate','ben','normal','queued',0,536870913,NULL,'d',NULL,0,'{"prompt": "a cat", "seed": 7}','["file"]',0,20,'64x64',20.0,10.0,1.7960079764719641209e+09,NULL,NULL,NULL,NULL,'[]',10);
CREATE INDEX darkroom_tasks_client ON darkroom_tasks (client, created_at);
CREATE INDEX darkroom_tasks_queue ON darkroom_tasks (state, rank, created_at);
COMMIT;
