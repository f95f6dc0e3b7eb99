/** The seal of a video, its C2PA manifest, as the public reader (the Python package c2pa) reads it. */
import { execFileSync } from 'node:child_process';
import { dirname, join } from 'node:path';

import { LIPSYNC, ROOT } from './places.mjs';

const READER = join(ROOT, 'tests', 'support', 'seal.py');

export interface Seal {
	/** "Valid" only if not one byte of the video has changed since the server signed it. */
	state: string;
	source_types: string[];
}

/** The seal of every video of a Lipsync server. */
export const GENERATED: Seal = {
	state: 'Valid',
	source_types: ['http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia'],
};

export function sealOf(video: string): Seal {
	const python = join(dirname(LIPSYNC), 'python');
	return JSON.parse(execFileSync(python, [READER, video], { encoding: 'utf8' })) as Seal;
}
