/** The webhook of the trigger: signatures, old ones, and the events that start a workflow. */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, it } from 'node:test';

import type { Job } from '../../nodes/Lipsync/api/types.js';
import { isWanted, type TriggerEvent } from '../../nodes/Lipsync/trigger/events.js';
import { LARGEST_AGE_S, isSigned } from '../../nodes/Lipsync/trigger/signature.js';
import { job } from './scripted.mjs';

const KEY = 'the key';
const BODY = Buffer.from('{"event":"job.succeeded"}');
const NOW_S = 1_800_000_000;

function signature(atS: number, body = BODY, key = KEY): string {
	return `t=${atS},v1=${createHmac('sha256', key).update(`${atS}.`).update(body).digest('hex')}`;
}

describe('the signature of the server', () => {
	it('accepts a call that the server signed a moment ago', () => {
		for (const age of [0, 20, LARGEST_AGE_S, -LARGEST_AGE_S])
			assert.ok(isSigned(signature(NOW_S - age), BODY, KEY, NOW_S), `${age} s old`);
	});

	it('refuses another key, another body, an old time, and text that is no signature', () => {
		const good = signature(NOW_S);
		assert.ok(!isSigned(signature(NOW_S, BODY, 'other'), BODY, KEY, NOW_S));
		assert.ok(!isSigned(good, Buffer.from('{}'), KEY, NOW_S));
		assert.ok(!isSigned(signature(NOW_S - LARGEST_AGE_S - 1), BODY, KEY, NOW_S));
		assert.ok(!isSigned(signature(NOW_S + LARGEST_AGE_S + 1), BODY, KEY, NOW_S));
		assert.ok(!isSigned(good.replace(/t=\d+/, `t=${NOW_S + 1}`), BODY, KEY, NOW_S));
		for (const header of [
			undefined,
			'',
			'v1=',
			't=1',
			`${good}0`,
			[good, good],
			good.toUpperCase(),
		])
			assert.ok(!isSigned(header, BODY, KEY, NOW_S), String(header));
	});
});

describe('the events of the trigger', () => {
	const scored = (score: number | null | undefined, state = 'succeeded'): Job => {
		const made = job('a', state) as Job;
		if (made.result !== null && score !== undefined) made.result.quality = { score, findings: [] };
		return made;
	};
	const wants = (each: Job, ...events: TriggerEvent[]) =>
		isWanted(each, { events, qualityBar: 0.5 });

	it('are the ends of a job', () => {
		assert.ok(wants(scored(undefined), 'succeeded'));
		assert.ok(!wants(scored(undefined), 'failed', 'cancelled'));
		assert.ok(wants(job('a', 'failed') as Job, 'succeeded', 'failed'));
		assert.ok(wants(job('a', 'cancelled') as Job, 'cancelled'));
		assert.ok(!wants(job('a', 'running') as Job, 'succeeded', 'failed', 'cancelled'));
	});

	it('include the quality bar only for a score below it', () => {
		assert.ok(wants(scored(0.49), 'belowQuality'));
		assert.ok(wants(scored(0), 'belowQuality'));
		for (const score of [0.5, 1, null, undefined]) assert.ok(!wants(scored(score), 'belowQuality'));
		assert.ok(!wants(job('a', 'failed') as Job, 'belowQuality'));
	});
});
