// OpenAI's package for Node against the server at argv[2], with the recording argv[3] and its samples argv[4] (24 kHz,
// 16 bits): prints what it got as JSON.
const fs = require("node:fs");
const OpenAI = require("openai");
const { OpenAIRealtimeWS } = require("openai/realtime/ws");

const [url, recording, samples] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 2 });
const ask = (options) =>
  client.audio.transcriptions.create({ file: fs.createReadStream(recording), model: "toy", ...options });

async function refusal(promise) {
  try {
    await promise;
  } catch (error) {
    return { status: error.status, code: error.code, kind: error.constructor.name };
  }
}

function realtime() {
  return new Promise((resolve, reject) => {
    const session = new OpenAIRealtimeWS({ model: "toy" }, client);
    const deltas = [];
    session.on("error", reject);
    session.on("session.created", () => {
      const input = { format: { type: "audio/pcm", rate: 24000 }, turn_detection: null };
      session.send({ type: "session.update", session: { type: "transcription", audio: { input } } });
    });
    session.on("session.updated", () => {
      session.send({ type: "input_audio_buffer.append", audio: fs.readFileSync(samples).toString("base64") });
      session.send({ type: "input_audio_buffer.commit" });
    });
    session.on("conversation.item.input_audio_transcription.delta", (event) => deltas.push(event.delta));
    session.on("conversation.item.input_audio_transcription.completed", (event) => {
      session.close();
      resolve({ deltas, transcript: event.transcript });
    });
  });
}

(async () => {
  const got = {};
  for (const form of ["json", "text", "srt", "vtt"]) got[form] = await ask({ response_format: form });
  got.verbose_json = await ask({ response_format: "verbose_json", timestamp_granularities: ["word", "segment"] });
  got.events = [];
  for await (const event of await ask({ stream: true })) got.events.push(event);
  got.favoured = (await ask({ keywords: ["bcb:60"] })).text;
  got.models = (await client.models.list()).data.map((model) => model.id);
  got.unknown = await refusal(ask({ model: "whisper-1" }));
  got.wrong = await refusal(ask({ temperature: 7 }));
  got.realtime = await realtime();
  console.log(JSON.stringify(got));
})();
