// sqs-consumer on Node: ten at a time, all GETs at once, batch delete. For messages in parallel, its README ("Message Processing
// Behavior") says to use `batchSize`, which is at most ten. More than ten at once are several consumers in the process.
const { SQSClient } = require("@aws-sdk/client-sqs");
const { Consumer } = require("sqs-consumer");
const Database = require("better-sqlite3");

const work = JSON.parse(process.env.BENCH);
const database = new Database(work.path, { timeout: 30_000 });
database.pragma("journal_mode = WAL");
database.pragma("synchronous = FULL");
database.exec("CREATE TABLE IF NOT EXISTS entities (id TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID");
const upsert = database.prepare(
  "INSERT INTO entities VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
);

async function look(message) {
  const { id } = JSON.parse(message.Body);
  const response = await fetch(`${work.source}/products/${id}`, { signal: AbortSignal.timeout(5000) });
  if (!response.ok) throw new Error(`${response.status}`);
  upsert.run(id, JSON.stringify(await response.json()));
}

const sqs = new SQSClient({});
for (let number = 0; number < Math.max(1, Math.floor(work.threads / 10)); number++) {
  const consumer = Consumer.create({
    queueUrl: work.queue_url,
    sqs,
    batchSize: 10,
    waitTimeSeconds: 20,
    handleMessageBatch: async (messages) => {
      await Promise.all(messages.map(look));
      return messages;
    },
  });
  consumer.on("error", (error) => console.error(error));
  consumer.on("processing_error", (error) => console.error(error));
  consumer.start();
}
