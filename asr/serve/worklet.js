// Microphone samples in the audio thread, handed over in blocks: a message a block, not one for each 128 samples.
const BLOCK = 2048;

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
    this.ended = false;
    this.port.onmessage = () => { // asked to end: what is left goes too
      this.port.postMessage(this.block.slice(0, this.filled));
      this.port.postMessage(null);
      this.ended = true;
    };
  }

  process([channels]) {
    const samples = channels[0];
    if (samples && !this.ended) {
      if (this.filled + samples.length > BLOCK) {
        const whole = this.block.slice(0, this.filled);
        this.port.postMessage(whole, [whole.buffer]);
        this.filled = 0;
      }
      this.block.set(samples, this.filled);
      this.filled += samples.length;
    }
    return !this.ended;
  }
}

registerProcessor("microphone", Microphone);
