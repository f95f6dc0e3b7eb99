/** Video > Get Many: the jobs of the server, newest first. Finds a video whose execution was lost. */
import { serverOf } from '../../api/server';
import type { JobState } from '../../api/types';
import { eachItem } from '../../items';
import { describeStatus } from '../../jobs/describe';
import { newestJobs } from '../../jobs/list';
import type { Operation } from '../../operation';
import { isSimple, simplifyField } from './output';

export const getMany: Operation = {
	option: {
		name: 'Get Many',
		value: 'getAll',
		description: 'List jobs with their states, newest first',
		action: 'Get many videos',
	},
	fields: [
		{
			displayName: 'Return All',
			name: 'returnAll',
			type: 'boolean',
			default: false,
			description: 'Whether to return all results or only up to a given limit',
		},
		{
			displayName: 'Limit',
			name: 'limit',
			type: 'number',
			typeOptions: { minValue: 1 },
			default: 50,
			description: 'Max number of results to return',
			displayOptions: { show: { returnAll: [false] } },
		},
		{
			displayName: 'State',
			name: 'state',
			type: 'options',
			options: [
				{ name: 'Any', value: '' },
				{ name: 'Cancelled', value: 'cancelled' },
				{ name: 'Failed', value: 'failed' },
				{ name: 'Queued', value: 'queued' },
				{ name: 'Running', value: 'running' },
				{ name: 'Succeeded', value: 'succeeded' },
			],
			default: '',
			description: 'Return only jobs in this state',
		},
		simplifyField,
	],
	run: async (context) =>
		await eachItem(context, async (i) => {
			const server = serverOf(context, i);
			const all = context.getNodeParameter('returnAll', i) as boolean;
			const limit = all ? Number.POSITIVE_INFINITY : Number(context.getNodeParameter('limit', i));
			const state = context.getNodeParameter('state', i, '') as JobState | '';
			const jobs = await newestJobs(server, limit, state || undefined);
			const simple = isSimple(context, i);
			return await Promise.all(
				jobs.map(async (job) => ({
					json: await describeStatus(server, job, simple),
					pairedItem: { item: i },
				})),
			);
		}),
};
