/** Machine > Get Many: all machines of the account. */
import { eachItem } from '../../items';
import { accountOf } from '../../machines';
import type { Operation } from '../../operation';
import { pagingFields, readLimit } from '../paging';
import { describeMachine } from './getStatus';

export const getMany: Operation = {
	option: {
		name: 'Get Many',
		value: 'getAll',
		description: 'List the machines of the account',
		action: 'Get many rented machines',
	},
	fields: [...pagingFields],
	run: async (context) =>
		await eachItem(context, async (i) => {
			const { provider, name } = await accountOf(context, i);
			const machines = (await provider.list()).slice(0, readLimit(context, i));
			return machines.map((each) => ({
				json: describeMachine(each, name),
				pairedItem: { item: i },
			}));
		}),
};
