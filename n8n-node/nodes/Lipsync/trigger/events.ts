/** Which ends of a job start a workflow: finished, failed, cancelled, or finished below the quality bar. */
import type { INodeProperties } from 'n8n-workflow';

import { isFinal, type Job } from '../api/types';

export type TriggerEvent = 'succeeded' | 'failed' | 'cancelled' | 'belowQuality';

/** The wanted events, and the score under which a video counts as below the quality bar. */
export interface Wanted {
	events: TriggerEvent[];
	qualityBar: number;
}

export const eventFields: INodeProperties[] = [
	{
		displayName: 'Trigger On',
		name: 'events',
		type: 'multiOptions',
		required: true,
		options: [
			{
				name: 'Video Below Quality Bar',
				value: 'belowQuality',
				description: 'The server checked the finished video, and its score is too low',
			},
			{ name: 'Video Cancelled', value: 'cancelled' },
			{ name: 'Video Failed', value: 'failed' },
			{ name: 'Video Finished', value: 'succeeded' },
		],
		default: ['succeeded'],
		description: 'The ends of a job that start the workflow',
	},
	{
		displayName: 'Quality Bar',
		name: 'qualityBar',
		type: 'number',
		typeOptions: { minValue: 0, maxValue: 1, numberPrecision: 2 },
		default: 0.5,
		hint: 'The server gives a score only to videos that it was asked to check',
		description:
			'Videos with a lower score start the workflow: 0 is unusable, 1 is without a fault',
		displayOptions: { show: { events: ['belowQuality'] } },
	},
];

export function wantedOf(context: {
	getNodeParameter(name: string, fallback?: unknown): unknown;
}): Wanted {
	return {
		events: context.getNodeParameter('events', []) as TriggerEvent[],
		qualityBar: Number(context.getNodeParameter('qualityBar', 0.5)),
	};
}

/** Whether the end of `job` is one of the wanted events. */
export function isWanted(job: Job, { events, qualityBar }: Wanted): boolean {
	if (!isFinal(job.state)) return false;
	if (events.some((event) => event === job.state)) return true;
	return events.includes('belowQuality') && isBelow(job, qualityBar);
}

/** A video without a score was not checked, or the check could not judge it: no event. */
export function isBelow(job: Job, qualityBar: number): boolean {
	const score = job.result?.quality?.score;
	return job.state === 'succeeded' && typeof score === 'number' && score < qualityBar;
}
