// A service in Express, as a program. PUT saves an entity, and DELETE deletes it. It prints its URL,
// and ends with its input.

const express = require("express");

const products = new Map();
const app = express();

app.put("/products/:id", express.json(), (request, response) => {
  products.set(request.params.id, request.body);
  response.json(request.body);
});

app.delete("/products/:id", (request, response) => {
  products.delete(request.params.id);
  response.json({});
});

app.get("/products/:id", (request, response) => {
  const product = products.get(request.params.id);
  if (!product) return response.sendStatus(404);
  response.json(product);
});

const server = app.listen(0, "127.0.0.1", () => {
  console.log(`http://127.0.0.1:${server.address().port}`);
});
process.stdin.on("end", () => process.exit()).resume();
