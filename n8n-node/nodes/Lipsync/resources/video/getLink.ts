/** Video > Get Link: an address that shows a finished video to people who have no token. */
import { NodeOperationError } from 'n8n-workflow';

import { serverOf } from '../../api/server';
import { eachItem, numberBetween } from '../../items';
import { makeLink } from '../../jobs/link';
import type { Operation } from '../../operation';
import { jobIdFields, readJobId } from './jobId';

const HOUR_S = 3600;
/** The server's own limit: seven days. */
const MOST_HOURS = 168;

export const getLink: Operation = {
	option: {
		name: 'Get Link',
		value: 'getLink',
		description: 'Get a link that shows a finished video without the token until it expires',
		action: 'Get link to video',
	},
	fields: [
		...jobIdFields,
		{
			displayName: 'Expires After (Hours)',
			name: 'expiresAfterHours',
			type: 'number',
			typeOptions: { minValue: 0.01, maxValue: MOST_HOURS },
			default: 24,
			description:
				'How long the link works, at most 168 hours (7 days). Everybody who has the link can see this one video.',
		},
		{
			displayName: 'Download Counts as Collected',
			name: 'collects',
			type: 'boolean',
			default: false,
			description:
				'Whether the server frees the space soon after somebody has downloaded the whole video through the link',
		},
	],
	run: async (context) =>
		await eachItem(context, async (i) => {
			const id = readJobId(context, i);
			const hours = context.getNodeParameter('expiresAfterHours', i, 24);
			const allowed: [number, number] = [0.01, MOST_HOURS];
			const expiresInS = Math.round(
				numberBetween(context, 'Expires After', hours, allowed, i) * HOUR_S,
			);
			const collects = context.getNodeParameter('collects', i, false) as boolean;
			const link = await makeLink(serverOf(context, i), id, { expiresInS, collects });
			if (link === undefined) {
				throw new NodeOperationError(context.getNode(), `The server gives no link to job ${id}`, {
					description:
						'Check the job ID with Video > Get Many. A server older than this node has no links: update it.',
					itemIndex: i,
				});
			}
			return { json: { job_id: id, ...link }, pairedItem: { item: i } };
		}),
};
