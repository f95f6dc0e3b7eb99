/** Machine > Get Many: all machines of the account. */
import { eachItem } from '../../items';
import { accountOf } from '../../machines';
import type { Operation } from '../../operation';
import { describeMachine } from './getStatus';

export const getMany: Operation = {
	option: {
		name: 'Get Many',
		value: 'getAll',
		description: 'List the machines of the account',
		action: 'Get many rented machines',
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
	],
	run: async (context) =>
		await eachItem(context, async (i) => {
			const { provider, name } = await accountOf(context, i);
			const all = context.getNodeParameter('returnAll', i, false) as boolean;
			const limit = all ? undefined : Number(context.getNodeParameter('limit', i, 50));
			const machines = (await provider.list()).slice(0, limit);
			return machines.map((each) => ({
				json: describeMachine(each, name),
				pairedItem: { item: i },
			}));
		}),
};
