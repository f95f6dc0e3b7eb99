/** The resource Machine: a rented GPU. */
import { resourceProperties, type Operation } from '../../operation';
import { getMany } from './getMany';
import { getStatus } from './getStatus';
import { keep } from './keep';
import { start } from './start';
import { stop } from './stop';

export const machineOperations: Operation[] = [start, stop, keep, getMany, getStatus];

export const machineProperties = resourceProperties('machine', machineOperations, 'start');
