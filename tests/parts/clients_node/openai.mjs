// What applications do with OpenAI's SDK for Node, one step a name; what came of each goes out as one JSON object.
import OpenAI from "openai";

const [, , baseURL, keys] = process.argv;
const { wide, narrow, stranger } = JSON.parse(keys);
const client = new OpenAI({ baseURL, apiKey: wide, maxRetries: 0 });
const chat = { model: "tiny", messages: [{ role: "user", content: "Name a city." }], max_tokens: 12, temperature: 0 };
const schema = {
  type: "object",
  properties: { city: { enum: ["Rome", "Paris"] }, warm: { type: "boolean" } },
  required: ["city", "warm"],
  additionalProperties: false,
};
const shaped = { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "weather", parameters } }];

const thrown = async (call) => {
  try {
    await call();
  } catch (error) {
    const { status, code, param, type, requestID, message } = error;
    const after = error.headers?.get("retry-after");
    return { class: error.constructor.name, status, code, param, type, requestID, message, after };
  }
};

const steps = {
  plain: async () => {
    const answer = await client.chat.completions.create(chat);
    return { text: answer.choices[0].message.content, usage: answer.usage };
  },
  stream: async () => {
    let text = "";
    const usages = [];
    const options = { ...chat, stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await client.chat.completions.create(options)) {
      text += chunk.choices[0]?.delta?.content ?? "";
      if (chunk.usage) usages.push({ choices: chunk.choices.length, tokens: chunk.usage.completion_tokens });
    }
    return { text, usages };
  },
  helper: async () => {
    const runner = client.chat.completions.stream({ ...chat, max_tokens: 200, response_format: shaped });
    let said = "";
    runner.on("content", (delta) => (said += delta));
    return { final: await runner.finalContent(), said };
  },
  tools: async () => {
    const answer = await client.chat.completions.create({ ...chat, tools, tool_choice: "auto" });
    return { reason: answer.choices[0].finish_reason, tokens: answer.usage.completion_tokens };
  },
  models: async () => {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return { ids, one: await client.models.retrieve("tiny") };
  },
  embeddings: async () => {
    const asked = { model: "embedder", input: ["river", "stone bridge"] };
    const coded = await client.embeddings.create(asked);
    const floats = await client.embeddings.create({ ...asked, encoding_format: "float" });
    const apart = coded.data.flatMap((one, at) =>
      one.embedding.map((value, place) => Math.abs(value - floats.data[at].embedding[place])),
    );
    return { sizes: coded.data.map((one) => one.embedding.length), apart: Math.max(...apart) };
  },
  completions: async () => {
    const asked = { model: "tiny", prompt: "Once", max_tokens: 8, temperature: 0 };
    let streamed = "";
    for await (const chunk of await client.completions.create({ ...asked, stream: true })) {
      streamed += chunk.choices[0].text;
    }
    return { plain: (await client.completions.create(asked)).choices[0].text, streamed };
  },
  responses: async () => {
    const answer = await client.responses.create({ model: "tiny", input: "Name a city.", max_output_tokens: 12 });
    return { text: answer.output_text, tokens: answer.usage.output_tokens };
  },
  responsesStream: async () => {
    const asked = { model: "tiny", input: "Name a city.", max_output_tokens: 12, stream: true };
    const types = [];
    let text = "";
    let tokens = 0;
    for await (const event of await client.responses.create(asked)) {
      types.push(event.type);
      if (event.type === "response.output_text.delta") text += event.delta;
      tokens = event.response?.usage?.output_tokens ?? tokens;
    }
    return { first: types[0], last: types.at(-1), text, tokens };
  },
  badKey: () => thrown(() => client.withOptions({ apiKey: stranger }).chat.completions.create(chat)),
  unknownModel: () => thrown(() => client.chat.completions.create({ ...chat, model: "nope" })),
  failed: () => thrown(() => client.chat.completions.create(chat)),
  limited: async () => {
    const careful = client.withOptions({ apiKey: narrow });
    await careful.chat.completions.create(chat);
    return thrown(() => careful.chat.completions.create(chat));
  },
  tooLong: () => {
    const messages = [{ role: "user", content: "a ".repeat(16384) }];
    return thrown(() => client.chat.completions.create({ ...chat, messages, stream: true }));
  },
  cancelled: async () => {
    const stream = await client.chat.completions.create({ ...chat, max_tokens: 1800, stream: true });
    let chunks = 0;
    for await (const chunk of stream) {
      chunks += 1;
      if (chunk.choices[0].delta.content) break;
    }
    return { chunks, aborted: stream.controller.signal.aborted };
  },
  headers: async () => {
    const { data, response, request_id } = await client.chat.completions
      .create(chat, { headers: { "x-request-id": "mine-2" } })
      .withResponse();
    const backend = response.headers.get("x-sluiceway-backend");
    return { choices: data.choices.length, backend, requestID: request_id, own: data._request_id };
  },
};

const name = process.argv[4];
process.stdout.write(JSON.stringify(await steps[name]()));
